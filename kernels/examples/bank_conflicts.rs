//! A first kernel: write it, run it without a GPU, see its bank conflicts, remove them.
//!
//! A block transposes a matrix of 32 × 32 through a tile in shared memory: it writes rows and reads
//! columns, so that both its reads and its writes of *global* memory are of neighbours. Shared memory
//! has 32 banks of 4 bytes; with rows 32 words apart a column lies in one bank, and the 32 lanes of a
//! warp wait for each other. One word of padding moves each row by one bank, and the conflicts are
//! gone.
//!
//! ```text
//! cargo run --release -p kernels --example bank_conflicts
//! ```
//!
//! Things to try: other pitches; elements of `Bf16`; no tile at all, where the table shows what
//! columns cost in sectors of global memory; an index too far.

use kernels::ptx::{F32, Kernel};
use ptx_vm::{Fault, FaultKind, Launch, Machine, Module, Statistics};

/// Threads of the block: one for each element.
const THREADS: u32 = 32 * 32;

/// Transposes a 32 × 32 matrix; rows of the tile in shared memory lie `pitch` words apart.
fn transpose(pitch: u32) -> Kernel {
    Kernel::new("transpose", THREADS, [THREADS, 1, 1], |k| {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let tile = k.shared::<F32>(32 * pitch);
        // A warp is a row, its lanes are the columns.
        let (row, column) = (k.thread() / 32, k.thread() % 32);
        tile.at(row.mad(pitch, column)).store(x.at(k.thread()).load());
        k.barrier();
        y.at(k.thread()).store(tile.at(column.mad(pitch, row)).load());
    })
}

/// Runs the kernel on 0, 1, 2, …: what it gives, and what it did.
fn run(kernel: &Kernel) -> Result<(Vec<f32>, Statistics), Fault> {
    let module = Module::parse(&kernel.ptx()).expect("the machine reads what the builder prints");
    let mut gpu = Machine::new();
    let x: Vec<f32> = (0..THREADS).map(|i| i as f32).collect();
    let (x, y) = (gpu.upload(&x), gpu.alloc::<f32>(x.len()));
    let args = [x.into(), y.into()];
    let statistics = gpu.launch(&module.kernels[0], Launch::linear(1, THREADS), &args)?;
    Ok((gpu.download(y).expect("a buffer of this machine's"), statistics))
}

fn main() -> Result<(), Fault> {
    println!("what the builder prints:\n{}", transpose(32).ptx());
    for pitch in [32, 33] {
        let (y, statistics) = run(&transpose(pitch))?;
        assert!((0..32 * 32).all(|i| y[i] == (i % 32 * 32 + i / 32) as f32), "it is transposed");
        let total = statistics.total();
        assert_eq!(total.wavefronts > total.ideal_wavefronts, pitch == 32, "padding removes them");
        println!(
            "rows {pitch} words apart: {} passes over the banks, {} without conflicts",
            total.wavefronts, total.ideal_wavefronts
        );
        println!("{statistics}");
    }

    // And what the machine says where the barrier is forgotten.
    let [forgetful] = &transpose(33).weakened()[..] else { panic!("it has one barrier") };
    let fault = run(forgetful).expect_err("a warp reads what others write");
    assert!(matches!(fault.kind, FaultKind::UninitialisedMemory | FaultKind::SharedRace));
    println!("without its barrier: {fault}");
    Ok(())
}

#[test]
fn it_shows_what_it_says() {
    main().expect("the machine runs it");
}
