//! What the suites in `tests/` share.
//!
//! | module | what it holds |
//! |---|---|
//! | [`stats`] | goodness of fit, and the normal distribution |
//! | [`mixture`] | mixtures of Gaussians, whose flow is known in closed form |
//! | [`table`] | a denoiser that is a table, whose every outcome can be enumerated |
//! | [`tiny`] | a D-DiT small enough for the same |
//! | [`figures`] | the plots of `docs/equations.md`, drawn from the library's functions |
//! | [`operations`] | the table of operations in `docs/` |
//! | [`links`] | the links of `docs/`, down to the item they name |
//! | [`mutations`] | `docs/mutations.md`: mistakes, and the tests that see them |

pub mod figures;
pub mod links;
pub mod mixture;
pub mod mutations;
pub mod operations;
pub mod stats;
pub mod table;
pub mod tiny;
