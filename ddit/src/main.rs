//! `ddit`: draws pictures from sentences, tells what pictures show, and trains and measures the
//! models that do both. `ddit help` lists the commands; the library they are made of is `ddit`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
