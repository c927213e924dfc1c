//! Every operation documents its equation, its source, its shapes, what it saves for the backward
//! pass, its cost and its errors: read from the source, section by section.

use std::collections::BTreeMap;
use std::path::Path;

use autograd::ops;
use autograd::spec::Spec;

/// The sections that every function has, and one of every operation.
const PARTS: [&str; 4] = ["Shapes", "Saves", "Cost", "Errors"];
const SOURCE: &str = "Source";

/// A function on variables, or a formula of one: its name and its documentation.
pub struct Documented {
    pub name: String,
    /// What stands before the first section.
    pub about: String,
    /// Text by section. `Saves, cost: as ..` is two of one text.
    pub sections: BTreeMap<&'static str, String>,
}

impl Documented {
    fn new(name: &str, doc: &str) -> Self {
        let mut words = doc.split_whitespace().peekable();
        let (mut about, mut sections) = (String::new(), BTreeMap::new());
        let mut open: Vec<&str> = Vec::new();
        let mut sentence_ended = true;
        while let Some(word) = words.next() {
            let begins = sentence_ended && word.starts_with(char::is_uppercase);
            let mut heads: Vec<&str> = head(word).into_iter().filter(|_| begins).collect();
            if !heads.is_empty() {
                let mut last = word;
                while let Some(next) =
                    words.next_if(|next| last.ends_with(',') && head(next).is_some())
                {
                    heads.extend(head(next));
                    last = next;
                }
                if last.ends_with(':') {
                    open = heads;
                    continue;
                }
            }
            sentence_ended = word.ends_with('.');
            let texts = open.iter().copied();
            match open.is_empty() {
                true => push(&mut about, word),
                false => texts.for_each(|part| push(sections.entry(part).or_default(), word)),
            }
        }
        Self { name: name.to_owned(), about, sections }
    }

    /// The name of the function that is linked to first, in `text` or anywhere.
    pub fn link(&self, text: &str) -> Option<String> {
        let all = std::iter::once(text).chain([&self.about[..]]);
        let all = all.chain(self.sections.values().map(String::as_str));
        let mut links = all.filter_map(|text| text.split_once("](Self::"));
        links.next().map(|(_, rest)| rest.split(')').next().unwrap().to_owned())
    }
}

fn push(text: &mut String, word: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    *text += word;
}

/// The section that a word is the head of: `Saves:`, or `saves,` of several.
fn head(word: &str) -> Option<&'static str> {
    let name = word.strip_suffix([':', ','])?;
    let mut parts = PARTS.into_iter().chain([SOURCE]);
    parts.find(|part| part.eq_ignore_ascii_case(name))
}

/// The documentation in front of a line of source.
fn doc_above(lines: &[&str], line: usize) -> String {
    let is_above = |line: &&&str| {
        let line = line.trim_start();
        line.starts_with("///") || line.starts_with("#[")
    };
    let above = lines[..line].iter().rev().take_while(is_above);
    let mut doc: Vec<_> = above.filter_map(|line| line.trim_start().strip_prefix("///")).collect();
    doc.reverse();
    doc.join("\n")
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each public function on variables in `src/ops`.
pub fn functions() -> Vec<Documented> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
    let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|ending| ending == "rs"));
    let mut found = Vec::new();
    for source in files.map(|file| std::fs::read_to_string(file).unwrap()) {
        let lines: Vec<&str> = source.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let Some(rest) = line.trim_start().strip_prefix("pub fn ") else { continue };
            let end = lines[i..].iter().position(|line| line.ends_with('{')).unwrap();
            let signature = lines[i..=i + end].join(" ");
            let name = rest.split(['(', '<']).next().unwrap();
            if signature.contains("-> Result<") && !name.starts_with('$') {
                found.push(Documented::new(name, &doc_above(&lines, i)));
            }
        }
    }
    let source = read("src/ops/elementwise.rs");
    found.extend(["unary", "binary"].into_iter().flat_map(|list| generated(&source, list)));
    found
}

/// What a macro of `elementwise.rs` writes over the method of each line of its list.
fn generated(source: &str, list: &str) -> Vec<Documented> {
    let between = |begin: &str, end: &str| {
        let (_, rest) = source.split_once(begin).unwrap_or_else(|| panic!("no {begin}"));
        rest.split_once(end).expect("it ends").0
    };
    let definition = between(&format!("macro_rules! {list} {{"), "pub fn $name");
    let (_, template) = definition.split_once("#[doc = concat!(").expect("methods are documented");
    let (template, _) = template.split_once(")]").expect("it ends");
    let method = |line: &str| {
        let (method, formula) = line.trim().split_once(" => ").expect("method => formula");
        let formula = formula.split(['(', ' ', ';']).next().unwrap();
        let literals = template.replace("stringify!($formula)", &format!("\"{formula}\""));
        let doc: String = literals.split('"').skip(1).step_by(2).collect();
        assert!(doc.contains(&format!("exprs::{formula})")), "the formula is not linked: {doc}");
        Documented::new(method.split('(').next().unwrap(), &doc.replace("\\n", "\n"))
    };
    between(&format!("\n{list}! {{\n"), "\n}").lines().map(method).collect()
}

/// Each formula of `kernels`.
pub fn formulas() -> Vec<Documented> {
    let file = |name| read(&format!("../kernels/src/elementwise/{name}.rs"));
    let source = ["exprs", "exprs/binary"].map(file).concat();
    let lines: Vec<&str> = source.lines().collect();
    let (mut found, mut doc) = (Vec::new(), String::new());
    for (i, line) in lines.iter().enumerate() {
        if line.starts_with("pub struct ") {
            doc = doc_above(&lines, i);
        }
        if let Some(name) = line.trim().strip_prefix("const NAME: &'static str = \"") {
            found.push(Documented::new(name.trim_end_matches("\";"), &doc));
        }
    }
    found
}

#[test]
fn every_function_documents_shapes_savings_cost_and_errors() {
    let functions = functions();
    assert!(functions.len() > 50, "the parser has lost its way");
    for function in &functions {
        let Documented { name, about, sections } = function;
        assert!(!about.is_empty(), "{name} does not say what it is");
        for part in PARTS {
            let text = sections.get(part).unwrap_or_else(|| panic!("{name} has no {part}:"));
            if text.starts_with("as ") {
                let other = function.link(text);
                let refers = functions
                    .iter()
                    .any(|f| Some(&f.name) == other.as_ref() && f.sections.contains_key(part));
                assert!(refers, "{part} of {name} are {text}, which says nothing");
            } else {
                assert!(part != "Shapes" || text.contains('→'), "{name}: shapes are {text}");
            }
        }
    }
}

#[test]
fn every_operation_has_its_equation_and_its_source() {
    let (functions, formulas) = (functions(), formulas());
    assert!(formulas.len() > 20, "the parser has lost its way");
    for name in ops::all().map(Spec::name) {
        let documented = |among: &[Documented]| among.iter().any(|known| known.name == name);
        assert!(documented(&functions), "{name} is no function");
        let own = formulas.iter().chain(&functions).find(|known| known.name == name);
        let Documented { about, sections, .. } = own.expect("a function at least");
        assert!(about.contains(" = "), "{name} has no equation: {about}");
        let has_source = sections.get(SOURCE).is_some_and(|text| !text.is_empty());
        assert!(has_source, "{name} has no source, and does not say that it is elementary");
    }
}

#[test]
fn sections_are_read_apart() {
    let doc = "A sum, y = a + b. Source: who\nfound it. Shapes, cost: as\n[`f`](Self::f). Errors: \
               none; Saves: is no head here. Costs are low.";
    let read = Documented::new("g", doc);
    assert_eq!(read.about, "A sum, y = a + b.");
    assert_eq!(read.sections["Source"], "who found it.");
    assert_eq!(read.sections["Cost"], "as [`f`](Self::f).");
    assert_eq!(read.sections["Errors"], "none; Saves: is no head here. Costs are low.");
    assert_eq!(read.link(&read.sections["Cost"]).as_deref(), Some("f"));
    assert!(!read.sections.contains_key("Saves"));
}
