//! A first kernel: write it, run it, see its bank conflicts, remove them.
//!
//! The kernel transposes a 32×32 tile through shared memory. Row by row it writes the tile, then
//! reads it column by column, so that both its reads and its writes of *global* memory are coalesced.
//! Shared memory has 32 banks of 4 bytes; the words of a column of a 32-word row all lie in one bank,
//! so the plain tile makes a warp wait 32 passes for each column. One word of padding a row moves
//! each row by one bank, and the conflicts are gone.
//!
//! ```text
//! cargo run --release -p ptx-vm --example bank_conflicts
//! ```

use ptx_vm::{FaultKind, Launch, Machine, Module, Statistics};

/// The kernel, with rows of `pitch` bytes in shared memory and `sync` between the two halves.
fn kernel(pitch: u32, sync: &str) -> String {
    format!(
        "
.version 7.0
.target sm_80
.address_size 64

.visible .entry transpose(.param .u64 x, .param .u64 y)
.maxntid 32, 32, 1
{{
    .shared .align 4 .b8 tile[{}];
    .reg .u64 %rd<6>;
    .reg .u32 %r<8>;
    .reg .f32 %f<2>;

    ld.param.u64    %rd0, [x];
    ld.param.u64    %rd1, [y];
    mov.u32         %r0, %tid.x;                // lane: column
    mov.u32         %r1, %tid.y;                // warp: row
    mad.lo.u32      %r2, %r1, 32, %r0;          // element row·32 + column
    mad.wide.u32    %rd2, %r2, 4, %rd0;
    mad.wide.u32    %rd3, %r2, 4, %rd1;
    mov.u32         %r3, tile;
    mad.lo.u32      %r4, %r1, {pitch}, %r3;     // tile[row][column]
    mad.lo.u32      %r4, %r0, 4, %r4;
    mad.lo.u32      %r5, %r0, {pitch}, %r3;     // tile[column][row]
    mad.lo.u32      %r5, %r1, 4, %r5;

    ld.global.f32   %f0, [%rd2];
    st.shared.f32   [%r4], %f0;
    {sync}
    ld.shared.f32   %f1, [%r5];
    st.global.f32   [%rd3], %f1;
    ret;
}}
",
        32 * pitch
    )
}

/// Runs the kernel on 0, 1, 2, … and checks what it gives.
fn transpose(pitch: u32) -> Result<Statistics, Box<dyn std::error::Error>> {
    let module = Module::parse(&kernel(pitch, "bar.sync 0;"))?;
    let mut machine = Machine::new();
    let x: Vec<f32> = (0..1024).map(|i| i as f32).collect();
    let (x, y) = (machine.upload(&x), machine.alloc::<f32>(1024));
    let launch = Launch { grid: [1, 1, 1], block: [32, 32, 1], shared: 0 };
    let statistics = machine.launch(&module.kernels[0], launch, &[x.into(), y.into()])?;
    let y = machine.download(y).map_err(|kind| format!("{kind:?}"))?;
    assert!((0..1024).all(|i| y[i] == ((i % 32) * 32 + i / 32) as f32));
    Ok(statistics)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (name, pitch) in [("Rows of 32 words", 128), ("Rows of 33 words", 132)] {
        let statistics = transpose(pitch)?;
        let shared = statistics.total();
        println!(
            "{name}: {} passes over the banks, {} without conflicts.",
            shared.wavefronts, shared.ideal_wavefronts
        );
        println!("{statistics}");
    }

    // And what the machine says when the barrier is forgotten.
    let module = Module::parse(&kernel(132, ""))?;
    let mut machine = Machine::new();
    machine.checks.uninitialised = false;
    let (x, y) = (machine.upload(&[0f32; 1024]), machine.alloc::<f32>(1024));
    let launch = Launch { grid: [1, 1, 1], block: [32, 32, 1], shared: 0 };
    let Err(fault) = machine.launch(&module.kernels[0], launch, &[x.into(), y.into()]) else {
        return Err("the race went unseen".into());
    };
    assert_eq!(fault.kind, FaultKind::SharedRace);
    println!("Without its barrier: {fault}");
    Ok(())
}
