//! How time and memory grow: models that differ in one thing.

use super::workload::Workload;

/// Models of two blocks that differ in one thing.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// What they differ in.
    pub name: &'static str,
    /// Of each: patches a side, text tokens, width, batch.
    points: &'static [[usize; 4]],
}

/// Sequences of 128 to 4096 tokens, widths of 192 to 1536, batches of 1 to 64, and an axis to try
/// the command with.
pub const AXES: [Axis; 4] = [
    Axis {
        name: "sequence",
        points: &[
            [8, 64, 384, 1],
            [14, 60, 384, 1],
            [21, 71, 384, 1],
            [31, 63, 384, 1],
            [44, 112, 384, 1],
            [63, 127, 384, 1],
        ],
    },
    Axis {
        name: "width",
        points: &[[21, 71, 192, 1], [21, 71, 384, 1], [21, 71, 768, 1], [21, 71, 1536, 1]],
    },
    Axis {
        name: "batch",
        points: &[[8, 64, 384, 1], [8, 64, 384, 4], [8, 64, 384, 16], [8, 64, 384, 64]],
    },
    Axis { name: "tiny", points: &[[2, 4, 64, 1], [2, 4, 64, 2]] },
];

impl Axis {
    /// The models, smallest first.
    pub fn workloads(&self) -> impl Iterator<Item = Workload> {
        self.points.iter().map(|&[patches, text, width, batch]| Workload {
            name: self.name,
            width,
            heads: width / 64,
            blocks: 2,
            channels: 16,
            side: 2 * patches,
            patch: 2,
            text,
            context: width,
            words: 512,
            batch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_go_as_far_as_they_say() {
        let ends = |name, of: fn(&Workload) -> usize| {
            let axis = AXES.iter().find(|axis| axis.name == name).unwrap();
            let all: Vec<usize> = axis.workloads().map(|workload| of(&workload)).collect();
            assert!(all.is_sorted());
            (all[0], all[all.len() - 1])
        };
        assert_eq!(ends("sequence", |w| w.tokens() + w.text), (128, 4096));
        assert_eq!(ends("width", |w| w.width), (192, 1536));
        assert_eq!(ends("batch", |w| w.batch), (1, 64));
    }
}
