//! The links of a page of `docs/`, down to the item they name.
//!
//! A link whose text is code names an item that its file defines:
//! `` [`Corrupted::new`](../ddit/src/objective/text.rs) ``. So a page points at names, which stay,
//! and not at line numbers, which move.

use std::fs;
use std::path::Path;

/// A link within the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it is called on the page.
    pub text: String,
    /// Where it leads, relative to the page.
    pub target: String,
}

impl Link {
    /// The item it names, if its text is code.
    pub fn item(&self) -> Option<&str> {
        self.text.strip_prefix('`')?.strip_suffix('`')
    }

    /// Follows the link from the folder its page is in.
    ///
    /// Errors: no such file; the file does not define the item. In words.
    pub fn follow(&self, folder: &Path) -> Result<(), String> {
        let path = folder.join(&self.target);
        let Some(item) = self.item() else {
            return path.exists().then_some(()).ok_or(format!("{} is missing", self.target));
        };
        let source = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", self.target))?;
        match defines(&source, item) {
            true => Ok(()),
            false => Err(format!("{} does not define {item}", self.target)),
        }
    }
}

/// The links of a page that stay within the repository, in order. Blocks of code have none.
pub fn links(page: &str) -> Vec<Link> {
    let prose = page.split("```").step_by(2);
    let mut links = Vec::new();
    for part in prose {
        let mut rest = part;
        while let Some(middle) = rest.find("](") {
            let text = rest[..middle].rfind('[').map_or("", |start| &rest[start + 1..middle]);
            let after = &rest[middle + 2..];
            let Some(end) = after.find(')') else { break };
            let target = &after[..end];
            if !target.contains("://") {
                links.push(Link { text: text.to_owned(), target: target.to_owned() });
            }
            rest = &after[end..];
        }
    }
    links
}

/// Whether Rust source defines an item: `name`, or `Owner::name` in a block of the owner's: its own,
/// or an `impl` of it.
pub fn defines(source: &str, item: &str) -> bool {
    let Some((owner, name)) = item.rsplit_once("::") else {
        return source.lines().any(|line| declares(line, item, &KEYWORDS));
    };
    let mut lines = source.lines();
    while let Some(head) = lines.next() {
        if !opens(head, owner) {
            continue;
        }
        // Source is formatted: a block ends at the brace below its beginning, and its members stand
        // one step to the right.
        let margin = &head[..head.len() - head.trim_start().len()];
        let (end, step) = (format!("{margin}}}"), format!("{margin}    "));
        let is_enum = declares(head, owner, &["enum"]);
        let mut members = lines.by_ref().take_while(|line| **line != end);
        if members.any(|line| {
            let member = line.strip_prefix(&step).filter(|line| !line.starts_with(' '));
            member.is_some_and(|line| {
                declares(line, name, &KEYWORDS) || is_enum && starts_with_word(line, name)
            })
        }) {
            return true;
        }
    }
    false
}

/// Whether a line opens the block of a type, trait or module, or an `impl` of it.
fn opens(line: &str, owner: &str) -> bool {
    let implemented = || {
        let rest = line.trim_start().strip_prefix("impl")?;
        let of = rest.rsplit_once(" for ").map(|(_, of)| of);
        Some(of.unwrap_or_else(|| past_generics(rest).trim_start()))
    };
    !line.ends_with([';', '}'])
        && (declares(line, owner, &["struct", "enum", "trait", "mod"])
            || implemented().is_some_and(|of| starts_with_word(of, owner)))
}

/// What follows parameters in angle brackets, if the text begins with any.
fn past_generics(text: &str) -> &str {
    let mut depth = 0_u32;
    let end = text.find(|c| {
        depth = depth.saturating_add_signed(i32::from(c == '<') - i32::from(c == '>'));
        depth == 0
    });
    end.map_or("", |end| text[end..].trim_start_matches('>'))
}

const KEYWORDS: [&str; 9] =
    ["fn", "struct", "enum", "trait", "const", "static", "type", "mod", "macro_rules!"];

/// Whether a line, unless it is a comment, has one of the keywords right before the name.
fn declares(line: &str, name: &str, keywords: &[&str]) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut pairs = words.windows(2);
    !line.trim_start().starts_with("//")
        && pairs.any(|pair| keywords.contains(&pair[0]) && starts_with_word(pair[1], name))
}

fn starts_with_word(text: &str, name: &str) -> bool {
    let rest = text.strip_prefix(name);
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_page() {
        let page = "See [`a::b`](../x.rs), [the web](https://x.org) and\n```\n[no](code)\n```\n\
                    [a plot](p.svg).";
        let found = links(page);
        let link = |text: &str, target: &str| Link { text: text.into(), target: target.into() };
        assert_eq!(found, [link("`a::b`", "../x.rs"), link("a plot", "p.svg")]);
        assert_eq!((found[0].item(), found[1].item()), (Some("a::b"), None));
        assert!(found[1].follow(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn items_are_definitions_not_mentions() {
        let source = "//! prose about fn new_thing\npub struct Thing<T> {\n}\n\
                      impl<T> Thing<T> {\n    pub fn new(x: T) -> Self {\n        other(x)\n    }\n}\n\
                      impl From<Kind> for Thing<Kind> {\n    fn from(kind: Kind) {}\n}\n\
                      enum Kind {\n    Small,\n}\nconst MOST: usize = 3;\n";
        for item in ["Thing", "Thing::new", "Thing::from", "Kind::Small", "MOST"] {
            assert!(defines(source, item), "{item}");
        }
        for item in ["other", "new_thing", "Kind::Large", "Thing::ne", "Small"] {
            assert!(!defines(source, item), "{item}");
        }
        // What stands behind its owner is not its owner's, nor is what stands within a member.
        for item in ["Kind::from", "Thing::Small", "Thing::other", "Thing::MOST", "From::from"] {
            assert!(!defines(source, item), "{item}");
        }
    }
}
