//! `docs/mutations.md`: ways to get the algorithm wrong, as differences of the source, and the
//! tests that see them.

use std::fs;
use std::path::Path;

use crate::links::{Link, links};

/// One way to get the algorithm wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// What is got wrong.
    pub title: String,
    /// The file it is got wrong in, from the root of the workspace.
    pub file: String,
    /// Lines of that file.
    pub right: String,
    /// What they become.
    pub wrong: String,
    /// The tests that see it.
    pub tests: Vec<Test>,
}

/// A test: the package it is of, and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// The package.
    pub package: String,
    /// The path of a test in the package's source, as `cargo test` prints it.
    pub name: String,
}

impl Mutation {
    /// The file with the mistake made.
    ///
    /// Errors: it cannot be read; it does not hold the right lines exactly once. In words.
    pub fn mutated(&self, root: &Path) -> Result<String, String> {
        let Self { title, file, right, wrong, .. } = self;
        let source = fs::read_to_string(root.join(file)).map_err(|e| format!("{file}: {e}"))?;
        match source.matches(right).count() {
            1 => Ok(source.replace(right, wrong)),
            count => Err(format!("{title}: {count} times in {file}:\n{right}")),
        }
    }
}

/// The mutations of a page, one for each block of differences; all blocks of a section name the
/// same tests.
///
/// # Panics
/// If the page is not laid out as its own introduction says.
pub fn mutations(page: &str) -> Vec<Mutation> {
    let sections = page.split("\n## ").skip(1);
    let mutations = sections.flat_map(|section| {
        let (title, body) = section.split_once('\n').expect("a section has a title");
        let tests: Vec<Test> = links(body).iter().map(test).collect();
        assert!(!tests.is_empty(), "{title}: no test is named");
        let blocks = body.split("```diff\n").skip(1);
        let blocks: Vec<_> = blocks.map(move |block| mutation(title, block, &tests)).collect();
        assert!(!blocks.is_empty(), "{title}: nothing is changed");
        blocks
    });
    mutations.collect()
}

fn mutation(title: &str, block: &str, tests: &[Test]) -> Mutation {
    let mut lines = block.split("```").next().expect("a split has a first part").lines();
    let file = lines.next().and_then(|line| line.strip_prefix("--- "));
    let file = file.unwrap_or_else(|| panic!("{title}: no file is named")).to_owned();
    let (mut right, mut wrong) = (String::new(), String::new());
    for line in lines {
        let (mark, code) = line.split_at_checked(1).unwrap_or((" ", line));
        for (side, other) in [(&mut right, "+"), (&mut wrong, "-")] {
            if mark != other {
                *side += code;
                *side += "\n";
            }
        }
    }
    Mutation { title: title.to_owned(), file, right, wrong, tests: tests.to_vec() }
}

/// The test that a link such as `` [`name`](../kernels/src/reduce/cpu.rs) `` leads to. Tests stand
/// in a module `tests`, at the foot of their file or in a file of its own.
fn test(link: &Link) -> Test {
    let name = link.item().unwrap_or_else(|| panic!("{} names no test", link.text));
    let path = link.target.trim_start_matches("../").trim_end_matches(".rs");
    let (package, path) = path.split_once("/src/").expect("tests stand in the source");
    let module = path.trim_end_matches("/tests").trim_end_matches("/mod").replace('/', "::");
    Test { package: package.to_owned(), name: format!("{module}::tests::{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_two() {
        let page = "# Page\n\n## A dropped\n\n```diff\n--- a/src/x.rs\n     f(\n-        1,\n\
                    +        2,\n```\n\nCaught by [`one`](../a/src/y/mod.rs), \
                    [`two`](../a/src/y/tests.rs).\n\n## B\n\n```diff\n--- b.rs\n-c\n```\n\n\
                    ```diff\n--- d.rs\n-c\n```\n\n[`three`](../b/src/lib/z.rs)\n";
        let found = mutations(page);
        let test = |package: &str, name: &str| Test { package: package.into(), name: name.into() };
        assert_eq!(found[0].title, "A dropped");
        assert_eq!(found[0].file, "a/src/x.rs");
        assert_eq!(found[0].right, "    f(\n        1,\n");
        assert_eq!(found[0].wrong, "    f(\n        2,\n");
        assert_eq!(found[0].tests, [test("a", "y::tests::one"), test("a", "y::tests::two")]);
        assert_eq!((found.len(), &found[2].file[..]), (3, "d.rs"));
        assert_eq!(found[1].tests, [test("b", "lib::z::tests::three")]);
        assert_eq!(found[1].tests, found[2].tests);
    }
}
