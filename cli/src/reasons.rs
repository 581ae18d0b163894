//! The pages of `sypctl explain`.
/// Reason and page, sorted.
pub const PAGES: &[(&str, &str)] = &[];
/// The page of a reason.
pub fn page(reason: &str) -> Option<&'static str> {
    PAGES.iter().find(|(r, _)| *r == reason).map(|(_, p)| *p)
}
