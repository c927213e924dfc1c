//! Writes the PTX of every kernel: to files in the folder given, or those whose names contain the
//! given word to the standard output.
//!
//! ```text
//! cargo run -p kernels --example emit -- --to DIR
//! cargo run -p kernels --example emit -- gelu_tanh_f32
//! ```

use std::path::Path;

use kernels::ptx::registry;

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words[..] {
        [flag, folder] if flag == "--to" => {
            std::fs::create_dir_all(folder)?;
            for kernel in registry::kernels() {
                let file = Path::new(folder).join(format!("{}.ptx", kernel.spec().name));
                std::fs::write(file, kernel.ptx())?;
            }
        }
        [word] => {
            let all = registry::kernels();
            for kernel in all.iter().filter(|kernel| kernel.spec().name.contains(word)) {
                println!("{}", kernel.ptx());
            }
        }
        _ => eprintln!("usage: emit --to DIR | emit WORD"),
    }
    Ok(())
}
