//! Modules, functions, launches.

use super::device::bound;
use super::driver_api;
use crate::card::{self, Card};
use crate::driver::{Driver, Function, Object};
use crate::operation::Operation;
use crate::raw::{Arguments, Out, Text};
use crate::status::{Error, Status};
use ptx_vm::{Kernel, Launch, Module};
use std::ffi::{c_int, c_uint};
use std::sync::Arc;

/// `7.0` as (7, 0).
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn load(driver: &mut Driver, text: &str) -> Result<usize, Error> {
    driver.no_capture("loading a module")?;
    let module = Module::parse(text).map_err(|e| driver.fail(Error::InvalidPtx, e.to_string()))?;
    let version = version(&module.version).unwrap_or((u32::MAX, 0));
    if version > card::PTX {
        let text = format!(".version {} is newer than this driver", module.version);
        return Err(driver.fail(Error::UnsupportedPtxVersion, text));
    }
    if !driver.card.runs(&module.target) {
        let text = format!(".target {} does not run on {}", module.target, driver.card.name);
        return Err(driver.fail(Error::NoBinaryForGpu, text));
    }
    for kernel in &module.kernels {
        let (shared, parameters) = (kernel.static_shared, kernel.parameter_bytes());
        if shared > card::SHARED_DEFAULT as usize || parameters > card::PARAMETERS {
            let name = &kernel.name;
            let text = format!(
                "{name}: {shared} bytes of static shared memory, {parameters} of parameters"
            );
            return Err(driver.fail(Error::InvalidPtx, text));
        }
    }
    let handle = driver.create(Object::Module);
    for kernel in module.kernels {
        let ptx_version = version.0 * 10 + version.1;
        let function = Function { kernel, module: handle, ptx_version };
        driver.create(Object::Function(Arc::new(function)));
    }
    Ok(handle)
}

fn attribute(driver: &mut Driver, handle: usize, attribute: c_uint) -> Result<c_int, Error> {
    let function = driver.function(handle)?;
    let kernel = &function.kernel;
    let capability = driver.card.capability;
    Ok(match attribute {
        0 => kernel.max_threads.unwrap_or(card::THREADS).min(card::THREADS) as c_int,
        1 => kernel.static_shared as c_int,
        2 | 3 => 0,
        4 => registers(kernel) as c_int,
        5 => function.ptx_version as c_int,
        6 => (capability.0 * 10 + capability.1) as c_int,
        8 => opted_in(driver, handle) as c_int,
        _ => return Err(Error::InvalidValue),
    })
}

/// The most registers ptxas may give a thread: what the kernel allows, or what its block leaves.
fn registers(kernel: &Kernel) -> u32 {
    let threads = kernel.max_threads.unwrap_or(card::THREADS).next_multiple_of(32).max(32);
    kernel.max_registers.unwrap_or(card::REGISTERS / threads / 8 * 8).min(255)
}

fn opted_in(driver: &Driver, handle: usize) -> u32 {
    driver.opted_in.get(&handle).copied().unwrap_or(card::SHARED_DEFAULT)
}

/// What the hardware would refuse before a single thread runs.
fn check(
    card: Card,
    function: &Function,
    launch: Launch,
    opted_in: u32,
) -> Result<(), (Error, String)> {
    let kernel = &function.kernel;
    let axes = |limit: [u32; 3], given: [u32; 3]| {
        limit.iter().zip(given).all(|(limit, given)| (1..=*limit).contains(&given))
    };
    if !axes(card::GRID, launch.grid) || !axes(card::BLOCK, launch.block) {
        let (grid, block) = (launch.grid, launch.block);
        return Err((
            Error::InvalidValue,
            format!("{}: grid {grid:?} of blocks {block:?}", kernel.name),
        ));
    }
    let threads = launch.threads();
    let most = kernel.max_threads.unwrap_or(card::THREADS).min(card::THREADS);
    if threads > most {
        let text = format!("{}: {threads} threads a block, {most} allowed", kernel.name);
        return Err((Error::InvalidValue, text));
    }
    let registers = kernel.max_registers.unwrap_or(0) * threads.next_multiple_of(32);
    if registers > card::REGISTERS {
        let text =
            format!("{}: {registers} registers a block, {} allowed", kernel.name, card::REGISTERS);
        return Err((Error::LaunchOutOfResources, text));
    }
    let shared = kernel.dynamic_shared_offset as u32 + launch.shared;
    if launch.shared > opted_in || shared > opted_in.max(card::SHARED_DEFAULT) {
        let text = format!(
            "{}: {shared} bytes of shared memory, {opted_in} allowed; \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES raises it up to {}",
            kernel.name, card.shared_opt_in
        );
        return Err((Error::InvalidValue, text));
    }
    Ok(())
}

/// Reads each argument through its pointer, by the size of the kernel's parameter.
fn arguments(function: &Function, arguments: Arguments) -> Result<Vec<u8>, Error> {
    let kernel = &function.kernel;
    let mut block = vec![0; kernel.parameter_bytes()];
    for (i, parameter) in kernel.parameters.iter().enumerate() {
        let value = arguments.get(i)?.read(parameter.size)?;
        block[parameter.offset..][..parameter.size].copy_from_slice(&value);
    }
    Ok(block)
}

fn launch(
    driver: &mut Driver,
    handle: usize,
    launch: Launch,
    stream: usize,
    given: Arguments,
) -> Status {
    let function = driver.function(handle)?;
    let allowed = opted_in(driver, handle);
    if let Err((error, text)) = check(driver.card, &function, launch, allowed) {
        return Err(driver.fail(error, text));
    }
    let parameters = arguments(&function, given)?;
    driver.submit(stream, Operation::Launch { function, launch, parameters })
}

driver_api! {
    /// Reads a PTX text.
    fn cuModuleLoadData(module: Out<usize>, image: Text) |driver| {
        bound(driver)?;
        let text = image.get()?;
        module.put(load(driver, &text)?)
    };

    /// Forgets a module and its functions.
    fn cuModuleUnload(module: usize) |driver| {
        match driver.destroy(module)? {
            Object::Module => {
                driver.forget_functions(module);
                Ok(())
            }
            _ => Err(Error::InvalidHandle),
        }
    };

    /// The function of a name.
    fn cuModuleGetFunction(function: Out<usize>, module: usize, name: Text) |driver| {
        let name = name.get()?;
        match driver.find_function(module, &name)? {
            Some(handle) => function.put(handle),
            None => {
                let text = format!("the module has no kernel `{name}`");
                Err(driver.fail(Error::NotFound, text))
            }
        }
    };

    /// What a function uses and may use.
    fn cuFuncGetAttribute(value: Out<c_int>, name: c_uint, function: usize) |driver| {
        value.put(attribute(driver, function, name)?)
    };

    /// Opts in to more dynamic shared memory (attribute 8); a preferred carve-out (9) is a hint.
    fn cuFuncSetAttribute(function: usize, name: c_uint, value: c_int) |driver| {
        let kernel_shared = driver.function(function)?.kernel.dynamic_shared_offset as u32;
        let most = driver.card.shared_opt_in.saturating_sub(kernel_shared);
        match (name, u32::try_from(value)) {
            (8, Ok(value)) if value <= most => {
                driver.opted_in.insert(function, value);
                Ok(())
            }
            (8, _) => {
                let text = format!("{value} bytes of dynamic shared memory, {most} at most");
                Err(driver.fail(Error::InvalidValue, text))
            }
            (9, _) => Ok(()),
            _ => Err(Error::InvalidValue),
        }
    };

    /// A hint.
    fn cuFuncSetCacheConfig(function: usize, _config: c_uint) |driver| {
        driver.function(function).map(drop)
    };

    /// Blocks a multiprocessor can hold, by threads, blocks and shared memory.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<c_int>,
        function: usize,
        threads: c_int,
        dynamic: usize,
    ) |driver| {
        let function = driver.function(function)?;
        let card = driver.card;
        let threads = u32::try_from(threads).map_err(|_| Error::InvalidValue)?.max(1);
        // A block's shared memory has one KiB more than it asks for, the system's own.
        let shared = function.kernel.dynamic_shared_offset + dynamic + 1024;
        let by_threads = card.threads_per_processor / threads.next_multiple_of(32);
        let by_shared = card.shared_per_processor / shared.try_into().unwrap_or(u32::MAX);
        blocks.put(by_threads.min(by_shared).min(card.blocks_per_processor) as c_int)
    };

    /// Runs a kernel.
    fn cuLaunchKernel(
        function: usize,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: usize,
        given: Arguments,
        extra: usize,
    ) |driver| {
        bound(driver)?;
        if extra != 0 {
            return Err(driver.fail(Error::InvalidValue, "arguments by `extra`".to_owned()));
        }
        let shape = Launch {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared,
        };
        launch(driver, function, shape, stream, given)
    };
}
