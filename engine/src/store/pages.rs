//! A range of keys, a page at a time: no range is held as a whole.
use super::{Error, Kv, Pair};

/// Pairs read at once.
pub(super) const PAGE: usize = 256;

/// Pages of `from..to`, in order; after an error none comes that could be relied on.
pub(super) fn pages(
    kv: &dyn Kv,
    from: &[u8],
    to: &[u8],
) -> impl Iterator<Item = Result<Vec<Pair>, Error>> + Send {
    let (mut from, to) = (from.to_vec(), to.to_vec());
    std::iter::from_fn(move || match kv.scan(&from, &to, PAGE, false) {
        Err(e) => Some(Err(e)),
        Ok(page) => {
            let (last, _) = page.last()?;
            // the smallest key after one is that key and a zero
            from = [last.as_slice(), &[0]].concat();
            Some(Ok(page))
        }
    })
}
