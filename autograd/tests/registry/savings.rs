//! What an operation documents as saved for its backward pass is what it keeps, to the byte.
//!
//! `Saves:` is a list of tensors. Operands go by the names that `Shapes:` gives them (where it gives
//! none: x, or a and b) and y is the result. Whatever else the forward pass leaves behind comes with
//! its lengths, by the letters that `Shapes:` has for them, as in `μ \[B, ..\]`; or is like y.

use std::collections::BTreeMap;

use autograd::spec::{Case, Draw};
use autograd::{Role, Rows, SavedReport, Segment, Var, attention, ops};
use tensor::rng::Rng;
use tensor::{DType, Device, Result, Shape, Tensor};

use super::documentation::{Documented, formulas, functions};

/// Bytes of an element of the operands.
const FLOAT: usize = 8;

/// What the letters of documented shapes stand for; `None` if for several lengths.
#[derive(Default)]
struct Letters(BTreeMap<String, Option<usize>>);

impl Letters {
    /// Takes `shape` for what was documented as these lengths, of which `..` is any number.
    fn read(&mut self, documented: &[&str], shape: &[usize]) {
        let dots = documented.iter().filter(|letter| **letter == "..").count();
        if dots > 1 {
            return;
        }
        let axes = documented.len() - dots;
        let fits = if dots == 0 { shape.len() == axes } else { shape.len() >= axes };
        assert!(fits, "Shapes: says {documented:?}, and it is {shape:?}");
        let before = documented.iter().take_while(|letter| **letter != "..").count();
        let rest = shape.len() - (axes - before);
        let middle = [shape[before..rest].iter().product()];
        let lengths = shape[..before].iter().chain(&middle[..dots]).chain(&shape[rest..]);
        for (letter, &length) in documented.iter().zip(lengths) {
            let known = self.0.entry((*letter).to_owned()).or_insert(Some(length));
            *known = known.filter(|known| *known == length);
        }
    }

    fn elements(&self, documented: &[&str]) -> usize {
        let length = |letter: &&str| self.0.get(*letter).copied().flatten();
        documented.iter().map(|l| length(l).unwrap_or_else(|| panic!("what is {l}?"))).product()
    }
}

/// Text without what is in parentheses, and without rustdoc's backslashes.
fn plain(text: &str) -> String {
    let text = text.replace('\\', "");
    let parts = text.split(" (");
    let outside = |(i, part): (usize, &str)| match i {
        0 => part.to_owned(),
        _ => part.split_once(')').map_or("", |(_, rest)| rest).to_owned(),
    };
    parts.enumerate().map(outside).collect()
}

/// The lengths between brackets, and what stands before them.
fn bracket(text: &str) -> Option<(&str, Vec<&str>)> {
    let (before, inside) = text.split_once('[')?;
    let inside = inside.split(']').next()?;
    Some((before, inside.split(',').map(str::trim).filter(|length| !length.is_empty()).collect()))
}

/// The operands' names, from the part of `Shapes:` before the arrow; reads lengths on the way.
fn operands(text: &str, inputs: &[Tensor], letters: &mut Letters) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (before, lengths) in text.split_inclusive(']').filter_map(bracket) {
        let words = before.split([' ', ',', ';']).filter(|word| !["", "and"].contains(word));
        for word in words {
            // An operand that is optional may be missing.
            if let Some(operand) = inputs.get(names.len()) {
                letters.read(&lengths, operand.shape());
            }
            names.push(word.to_owned());
        }
    }
    let unnamed: &[&str] = if inputs.len() == 1 { &["x"] } else { &["a", "b"] };
    if names.is_empty() { unnamed.iter().map(|name| name.to_string()).collect() } else { names }
}

/// What `saves` says is kept of operands and a result of these shapes: its role and its bytes.
fn told([shapes, saves]: [&str; 2], label: &str, x: &[Tensor], y: &Tensor) -> Vec<(Role, usize)> {
    let mut letters = Letters::default();
    let shapes = plain(shapes);
    let (from, to) = shapes.split_once('→').expect("shapes have an arrow");
    let names = operands(from, x, &mut letters);
    if let Some((_, lengths)) = to.split_inclusive(']').next().and_then(bracket) {
        letters.read(&lengths, y.shape());
    }
    // A parameter that lengths depend on is in the case's label: `G = 3`.
    for (letter, number) in label.split(", ").filter_map(|part| part.split_once(" = ")) {
        letters.read(&[letter], &[number.parse().unwrap()]);
    }
    let saves = plain(saves);
    let mut depth = 0;
    let items = saves.trim_end_matches('.').split(|c| {
        depth += i32::from(c == '[') - i32::from(c == ']');
        c == ',' && depth == 0
    });
    let kept = |item: &str| match names.iter().position(|name| name == item) {
        Some(i) => (Role::Input(i), x[i].numel() * FLOAT),
        None if item == "y" => (Role::Output(0), y.numel() * FLOAT),
        None if item.starts_with("u32 ") && item.ends_with(" like y") => (Role::Aux, y.numel() * 4),
        None => {
            let (_, lengths) = bracket(item).unwrap_or_else(|| panic!("what is {item}?"));
            (Role::Aux, letters.elements(&lengths) * FLOAT)
        }
    };
    items.map(str::trim).filter(|item| *item != "nothing").map(kept).collect()
}

/// Buffers and bytes by role.
fn by_role(kept: impl Iterator<Item = (Role, usize, usize)>) -> BTreeMap<String, [usize; 2]> {
    let mut sums = BTreeMap::new();
    for (role, buffers, bytes) in kept {
        let sum: &mut [usize; 2] = sums.entry(role.to_string()).or_default();
        *sum = [sum[0] + buffers, sum[1] + bytes];
    }
    sums
}

/// A section of a function, or of the one whose section it says it has.
fn section<'a>(functions: &'a [Documented], name: &str, part: &str) -> &'a str {
    let function = functions.iter().find(|function| function.name == name);
    let function = function.unwrap_or_else(|| panic!("{name} is no function"));
    let text = &function.sections[part];
    match text.starts_with("as ") {
        true => section(functions, &function.link(text).expect("it links"), part),
        false => text,
    }
}

/// Operands that are no parameters, which would be there anyway.
fn intermediate(inputs: &[Tensor]) -> Vec<Var> {
    let made = |x: &Tensor| Var::parameter(x.clone()).mul_scalar(1.0).unwrap();
    inputs.iter().map(made).collect()
}

#[test]
fn what_is_documented_as_saved_is_what_is_kept() {
    let (functions, formulas) = (functions(), formulas());
    for op in ops::all().filter(|op| op.name() != "attention") {
        let name = op.name();
        let formula = formulas.iter().find(|formula| formula.name == name);
        let shapes = section(&functions, name, "Shapes");
        let saves =
            formula.map_or_else(|| section(&functions, name, "Saves"), |f| &f.sections["Saves"]);
        let cases = (1..).map(|seed| op.case(&mut Draw::new(seed, DType::F64)).unwrap());
        let full = cases.filter(|case: &Case| case.inputs.iter().all(|x| x.numel() > 0));
        for case in full.take(8) {
            let y = case.run(&intermediate(&case.inputs)).unwrap();
            let told = told([shapes, saves], &case.label, &case.inputs, &y.value());
            let told = by_role(told.into_iter().map(|(role, bytes)| (role, 1, bytes)));
            let report = SavedReport::of(&y);
            let own = report.rows.iter().filter(|row| row.op == name);
            let kept = by_role(own.map(|row| (row.role, row.buffers, row.bytes)));
            assert_eq!(told, kept, "{name} {} saves {saves}", case.label);
        }
    }
}

type Composed = fn(&[Var]) -> Result<Var>;

/// Functions made of operations, and one of a list of operands, with operands of these shapes.
const COMPOSED: [(&str, &[&[usize]], Composed); 18] = [
    ("attention", &[&[2, 5, 12], &[2, 5, 12], &[2, 5, 12], &[3, 5, 5]], |x| {
        Ok(attention(&[Segment::new(&x[0], &x[1], &x[2])], 3, 0.5, Some(&x[3]))?.remove(0))
    }),
    ("linears", &[&[3, 4], &[5, 4], &[5]], |x| {
        let [y] = x[0].linears([(&x[1], Some(&x[2]))])?;
        Ok(y)
    }),
    ("mean", &[&[3, 4]], |x| x[0].mean(&[0], false)),
    ("sum_all", &[&[3, 4]], |x| x[0].sum_all()),
    ("mean_all", &[&[3, 4]], |x| x[0].mean_all()),
    ("mse", &[&[3, 4], &[3, 4]], |x| x[0].mse(&x[1])),
    ("sum_to", &[&[3, 4]], |x| x[0].sum_to(&Shape::from([1, 4]))),
    ("flatten", &[&[3, 4]], |x| x[0].flatten(0, 1)),
    ("unsqueeze", &[&[3, 4]], |x| x[0].unsqueeze(1)),
    ("squeeze", &[&[3, 1]], |x| x[0].squeeze(1)),
    ("transpose", &[&[3, 4]], |x| x[0].transpose(0, 1)),
    ("select", &[&[3, 4]], |x| x[0].select(1, 2)),
    ("chunk", &[&[3, 4]], |x| Ok(x[0].chunk(1, 2)?.remove(1))),
    ("stack", &[&[3, 4], &[3, 4]], |x| Var::stack(&[&x[0], &x[1]], 0)),
    ("rows", &[&[3, 4]], |x| x[0].rows(&Rows::new(&[2, 0], 3)?)),
    ("embedding", &[&[3, 4]], |x| x[0].embedding(&Rows::new(&[2, 0], 3)?, [1, 2])),
    // To where they are: tests of the GPU have the other way.
    ("to_device", &[&[3, 4]], |x| x[0].to_device(&Device::Cpu)),
    ("group_norm_silu", &[&[2, 6, 5], &[6], &[6]], |x| x[0].group_norm_silu(&x[1], &x[2], 3, 0.1)),
];

#[test]
fn what_composed_functions_save_is_what_their_operations_keep() {
    let functions = functions();
    for (name, shapes, run) in COMPOSED {
        let inputs = shapes.iter().map(|shape| Rng::new(1).normal(*shape, DType::F64).unwrap());
        let inputs: Vec<Tensor> = inputs.collect();
        let y = run(&intermediate(&inputs)).unwrap();
        let texts = ["Shapes", "Saves"].map(|part| section(&functions, name, part));
        let told = told(texts, "G = 3", &inputs, &y.value());
        let kept = SavedReport::of(&y);
        let buffers: usize = kept.rows.iter().map(|row| row.buffers).sum();
        let bytes: usize = told.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!((told.len(), bytes), (buffers, kept.bytes()), "{name} saves {}", texts[1]);
    }
    let measured = |name: &str| {
        COMPOSED.iter().any(|composed| composed.0 == name)
            || name != "attention" && ops::find(name).is_some()
    };
    let missing: Vec<_> =
        functions.iter().map(|f| &f.name).filter(|name| !measured(name)).collect();
    assert!(missing.is_empty(), "nobody measures what is saved by {missing:?}");
}

#[test]
fn what_saves_says_is_read() {
    let x = |shape: &[usize]| Tensor::ones(shape, DType::F64);
    let shapes = r"x \[B, .., C\] (of any rank), scale and shift \[B, C\] → y \[B, .., O\], or so";
    let inputs = [x(&[2, 3, 5, 7]), x(&[2, 7]), x(&[2, 7])];
    let told = told(
        [shapes, r"shift, y, μ \[B, ..\] (a row), x·W \[G, O\], u32 places like y."],
        "G = 4, and more",
        &inputs,
        &x(&[2, 3, 5, 11]),
    );
    let want = [
        (Role::Input(2), 14 * 8),
        (Role::Output(0), 330 * 8),
        (Role::Aux, 30 * 8),
        (Role::Aux, 44 * 8),
        (Role::Aux, 330 * 4),
    ];
    assert_eq!(told, want);
}
