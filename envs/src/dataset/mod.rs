//! Cohorts: which scans there are, who trains and who tests, and the prepared scans on disk and in memory.

mod list;
mod split;
mod store;

pub use list::{Case, CohortList, Folder, read_folder, read_list};
pub use split::Split;
pub use store::{CacheBudget, LesionClasses, PreparedCase, Store};
