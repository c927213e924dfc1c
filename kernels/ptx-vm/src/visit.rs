//! The rules of races between blocks, which nothing orders: what one changes no other may touch.

use crate::race::Access;

/// A block touching global memory.
#[derive(Clone, Copy)]
pub(crate) struct Visit {
    /// From 1, and at most [`LAUNCHES`].
    pub launch: u32,
    /// Its linear index.
    pub block: u32,
    pub access: Access,
}

/// Launches that marks tell apart.
pub(crate) const LAUNCHES: u32 = (1 << LAUNCH_BITS) - 1;
const LAUNCH_BITS: u32 = 29;
/// More than one block. (A grid has fewer than 2³² of them, so none is of this index.)
const SEVERAL: u32 = u32::MAX;

impl Visit {
    /// The mark this access leaves, or the block it races with. A mark is, from the highest bits down,
    /// the launch, the block or [`SEVERAL`], and what was done: a bit for each kind of [`Access`].
    pub fn after(self, mark: u64) -> Result<u64, Option<u32>> {
        let kind = 1u64 << self.access as u32;
        let (launch, block, done) = (mark >> 35, (mark >> 3) as u32, mark & 7);
        let left = |block: u32, done| u64::from(self.launch) << 35 | u64::from(block) << 3 | done;
        if launch != u64::from(self.launch) {
            return Ok(left(self.block, kind));
        }
        if block == self.block {
            return Ok(left(block, done | kind));
        }
        // Any number of blocks may read what none changes, or update what none touches otherwise.
        if done == kind && self.access != Access::Write {
            return Ok(left(SEVERAL, kind));
        }
        Err(Some(block).filter(|block| *block != SEVERAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(visits: &[(u32, u32, Access)]) -> Result<u64, Option<u32>> {
        let visit = |mark, &(launch, block, access)| Visit { launch, block, access }.after(mark);
        visits.iter().try_fold(0, visit)
    }

    #[test]
    fn a_cell_is_one_block_s_or_read_by_all_or_updated_by_all() {
        use Access::{Read, Update, Write};
        let all = [Read, Write, Update];
        for (first, second) in all.into_iter().flat_map(|a| all.map(|b| (a, b))) {
            assert!(after(&[(1, 7, first), (1, 7, second)]).is_ok(), "one block");
            assert!(after(&[(1, 7, first), (2, 8, second)]).is_ok(), "two launches");
            let together = first == second && first != Write;
            let found = after(&[(1, 7, first), (1, 8, second)]);
            assert_eq!(found.is_ok(), together, "{first:?} {second:?}");
            assert!(together || found == Err(Some(7)));
        }
        // Those who came before are not forgotten.
        assert!(after(&[(1, 7, Read), (1, 7, Update), (1, 8, Update)]).is_err());
        assert_eq!(after(&[(1, 7, Read), (1, 8, Read), (1, 7, Write)]), Err(None));
        assert_eq!(after(&[(1, 7, Update), (1, 8, Update), (1, 9, Read)]), Err(None));
    }

    #[test]
    fn no_block_and_no_launch_passes_for_another() {
        let last = u32::MAX - 1;
        for block in [1 << 20, 1 << 22, 1 << 31, last] {
            assert_eq!(after(&[(1, 0, Access::Write), (1, block, Access::Write)]), Err(Some(0)));
            assert!(after(&[(1, block, Access::Write), (1, block, Access::Read)]).is_ok());
        }
        for launch in [1 << 20, LAUNCHES] {
            assert!(after(&[(1, 0, Access::Write), (launch, 5, Access::Write)]).is_ok());
            assert!(after(&[(launch, 0, Access::Write), (launch, 5, Access::Write)]).is_err());
        }
    }
}
