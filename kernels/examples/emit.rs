//! Prints the PTX of every kernel as one module, or of those whose names contain a word.
//!
//! ```text
//! cargo run -p kernels --example emit -- --module
//! cargo run -p kernels --example emit -- gelu_tanh_f32
//! ```

use std::io::Write;

use kernels::ptx::{module, registry};

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [word] = &words[..] else {
        eprintln!("usage: emit --module | WORD");
        std::process::exit(2);
    };
    let mut kernels = registry::kernels();
    if word != "--module" {
        kernels.retain(|kernel| kernel.spec().name.contains(word));
    }
    std::io::stdout().write_all(module(&kernels).as_bytes())
}
