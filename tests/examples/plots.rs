//! Draws the plots of `docs/equations.md` anew, into `docs/plots`:
//!
//! ```sh
//! cargo run --release -p tests --example plots
//! ```

use std::path::Path;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/plots");
    for (name, svg) in tests::figures::all().expect("what is drawn is fixed") {
        tensor::io::atomic_write(folder.join(name), svg).expect("the folder is there");
    }
}
