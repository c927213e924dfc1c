//! Makes anew what `docs/` has from the library: the plots of `equations.md`, and `operations.md`.
//!
//! ```sh
//! cargo run --release -p tests --example docs
//! ```

use std::path::Path;

fn main() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let write = |path: &str, text: String| {
        tensor::io::atomic_write(docs.join(path), text).expect("the folder is there");
    };
    for (name, svg) in tests::figures::all().expect("what is drawn is fixed") {
        write(&format!("plots/{name}"), svg);
    }
    write("operations.md", tests::operations::page());
}
