//! The list of kernels, and the table of what they are counterparts of.

use std::collections::BTreeSet;
use std::path::Path;

use kernels::ptx::counterparts::COUNTERPARTS;
use kernels::ptx::registry;
use ptx_vm::Module;

/// The machine reads every kernel; names are unique, and no formula is forgotten.
#[test]
fn the_list_of_kernels_is_whole() {
    let kernels = registry::kernels();
    for kernel in &kernels {
        let read = Module::parse(&kernel.ptx()).unwrap_or_else(|error| panic!("{error}"));
        assert!(read.kernel(&kernel.spec().name).is_some());
    }
    let mut names: Vec<&str> = kernels.iter().map(|k| k.spec().name.as_str()).collect();
    let source = include_str!("../../src/elementwise/exprs.rs");
    for name in source.split("const NAME: &'static str = \"").skip(1) {
        let name = format!("{}_f32_dense", name.split('"').next().unwrap_or_default());
        assert!(names.contains(&name.as_str()), "{name} is missing from the list");
    }
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "two kernels of one name");
}

/// Attention alone asks for approximations, and its tests run with them as far off as they may be
/// (`perturbed`). All other kernels promise bits.
#[test]
fn only_attention_is_approximate() {
    for kernel in registry::kernels() {
        let name = &kernel.spec().name;
        let exponentials = name.starts_with("attention_") && !name.contains("delta");
        assert_eq!(kernel.ptx().contains(".approx"), exponentials, "{name}");
    }
}

#[test]
fn every_kernel_has_a_row_and_every_row_has_kernels() {
    let kernels = registry::kernels();
    let names: Vec<&str> = kernels.iter().map(|k| k.spec().name.as_str()).collect();
    let parts: Vec<&str> = COUNTERPARTS.iter().flat_map(|row| row.gpu).copied().collect();
    for name in &names {
        assert!(parts.iter().any(|part| name.contains(part)), "{name} has no row");
    }
    for part in &parts {
        assert!(names.iter().any(|name| name.contains(part)), "no kernel is called {part}");
    }
}

/// `module::function` of every public function over `Real` in a folder of the crate, those that
/// others are checked against aside.
fn functions(module: &str, folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"))
    {
        let path = entry.path();
        if path.is_dir() {
            functions(module, &path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source file");
        let lines = text.lines().filter_map(|line| line.strip_prefix("pub fn "));
        for line in lines.filter(|line| line.contains("T: Real") && !line.contains("reference")) {
            let name = line.split(['<', '(']).next().unwrap_or_default();
            found.insert(format!("{module}::{name}"));
        }
    }
}

#[test]
fn every_function_of_the_cpu_has_a_row() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(&source).expect("the sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            let module = path.file_name().expect("a name").to_string_lossy().into_owned();
            functions(&module, &path, &mut found);
        }
    }
    assert!(found.len() > 25, "{found:?}");
    for function in found {
        assert!(COUNTERPARTS.iter().any(|row| row.cpu == function), "{function} has no row");
    }
}
