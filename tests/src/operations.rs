//! `docs/operations.md`: the registry as a table.

use autograd::ops;

/// What stands above the table.
const HEAD: &str = "\
# Operations

Every differentiable operation of the engine, from the registry ([`OPS`](../autograd/src/ops/mod.rs)) \
that also checks and times them: `ddit gradcheck` holds each against its own finite differences and a \
float64 reference, `ddit bench ops` measures it.

| operation | equation |
|---|---|
";

/// The page.
pub fn page() -> String {
    // A bar would end the table's cell.
    let row = |op: &dyn autograd::spec::Spec| {
        format!("| `{}` | {} |\n", op.name(), op.equation().replace('|', "\\|"))
    };
    ops::all().fold(HEAD.to_owned(), |page, op| page + &row(op))
}
