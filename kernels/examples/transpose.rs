//! Write a kernel, run it without a GPU, and see its bank conflicts.
//!
//! A warp turns a tile of 32 × 32 in shared memory: it writes rows and reads columns. With rows 32
//! elements apart a column lies in one bank, and 32 reads wait for each other; one element of
//! padding spreads it over all banks.
//!
//! ```text
//! cargo run -p kernels --example transpose
//! ```

use kernels::ptx::{F32, Kernel};
use ptx_vm::{Launch, Machine, Module};

/// Transposes a 32 × 32 matrix; rows of the tile in shared memory lie `pitch` elements apart.
fn transpose(pitch: u32) -> Kernel {
    Kernel::new("transpose", 32, [32, 32, 1], |k| {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let tile = k.shared::<F32>(32 * pitch);
        let lane = k.thread();
        for row in 0..32 {
            tile.at(lane + row * pitch).store(x.at(lane + row * 32).load());
        }
        k.barrier();
        for row in 0..32 {
            y.at(lane + row * 32).store(tile.at(lane.mad(pitch, row)).load());
        }
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let x: Vec<f32> = (0..32 * 32).map(|i| i as f32).collect();
    for pitch in [32, 33] {
        let kernel = transpose(pitch);
        let module = Module::parse(&kernel.ptx())?;
        let mut machine = Machine::new();
        let (x, y) = (machine.upload(&x), machine.alloc::<f32>(x.len()));
        let entry = module.kernel("transpose").ok_or("the kernel is there")?;
        let statistics = machine.launch(entry, Launch::linear(1, 32), &[x.into(), y.into()])?;
        let y = machine.download(y).expect("a buffer of this machine's");
        assert_eq!(y[32], 1.0);
        let total = statistics.total();
        println!(
            "rows {pitch} elements apart: {} passes over the banks, {} without conflicts",
            total.wavefronts, total.ideal_wavefronts
        );
        print!("{statistics}");
    }
    Ok(())
}
