//! Which known word someone may have meant.

/// The candidate most like `word`, if one is like it at all: no more than about a third of the
/// letters differ, by [`distance`]. Of equally near ones, the first in alphabetical order.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() + 1) / 3;
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The least number of letters to insert, delete, replace or exchange with their neighbour that
/// turns `a` into `b`.
///
/// The restricted Damerau-Levenshtein distance, row by row; three rows are ever needed.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut least = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("", "abc", 3),
            ("circle", "circle", 0),
            ("cirlce", "circle", 1),
            ("sqare", "square", 1),
            ("kitten", "sitting", 3),
            ("größe", "grosse", 3),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn finds_the_word_that_was_meant() {
        let words = ["circle", "circles", "square", "red", "green"];
        assert_eq!(nearest("cricle", words), Some("circle"));
        assert_eq!(nearest("gren", words), Some("green"));
        assert_eq!(nearest("elephant", words), None);
        assert_eq!(nearest(",", [":", "a"]), None, "one letter is never like another");
    }
}
