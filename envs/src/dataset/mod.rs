//! Cohorts: which scans there are, who trains and who tests, what is wrong with them and what is in them, and the prepared scans on disk and in memory.

mod check;
mod facts;
mod fingerprint;
mod list;
mod plan;
mod split;
mod store;

pub use check::{CohortReport, Finding, LostLesions, Severity, check};
pub use facts::{CaseFacts, HuHistogram, Intensity, LesionFacts};
pub use fingerprint::{Fingerprint, HuFigures, Spread, fingerprint};
pub use list::{Case, CohortList, Folder, read_cohort, read_folder, read_list};
pub use plan::{Plan, Rule, plan};
pub use split::Split;
pub use store::{CacheBudget, LesionClasses, PreparedCase, Store};
