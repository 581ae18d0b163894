//! List prices of a provider: read when somebody asks for it, or when a target without any is used first; kept in the store, so that the
//! next engine counts by the same. A new list is for later, as a new tariff is.
use crate::{
    engine::{Caller, Engine},
    error::Error,
    step::Target,
    store::{Commit, Store},
};
use prost::Message;
use std::{sync::Arc, time::Duration};
use syp_proto::v1::PriceList;

const PREFIX: &str = "prices/";
/// Who uses a target first waits no longer for its prices; it is unpriced then, and says so.
const FIRST: Duration = Duration::from_secs(20);

/// All that were ever read, the newest of each target. One that can't be read can be had anew from its provider.
///
/// # Errors
/// The store's.
pub async fn all(store: &dyn Store) -> Result<Vec<PriceList>, Error> {
    let read = |(name, bytes): (String, Vec<u8>)| match PriceList::decode(bytes.as_slice()) {
        Ok(list) => Some(list),
        Err(error) => {
            tracing::warn!(%error, "{name} can't be read");
            None
        }
    };
    Ok(store.settings(PREFIX).await?.into_iter().filter_map(read).collect())
}

// === impl Engine ===

impl Engine {
    /// Reads the list prices of a target and counts by them from now on. They are on disk before the first instance is priced by
    /// them; a start after a crash goes on with the rest.
    ///
    /// # Errors
    /// What the provider says, or the store's; then nothing changes.
    pub async fn refresh_prices(&self, target: Arc<dyn Target>, who: Caller) -> Result<PriceList, Error> {
        let alone = self.alone(&setting(&*target));
        let _alone = alone.lock_owned().await;
        let new = target.read_prices().await.map_err(Error::Refused)?;
        self.count_by(new, who).await
    }

    /// Sees to it that a target has list prices, where its provider has some.
    pub(crate) async fn with_prices(&self, target: &Arc<dyn Target>) {
        let lacking = || target.prices().is_some_and(|p| p.prices.is_empty());
        if !lacking() {
            return;
        }
        let alone = self.alone(&setting(&**target));
        let waited = alone.try_lock().is_err();
        let _alone = alone.lock_owned().await;
        // whoever was before us has read them, or tried to a moment ago
        if waited || !lacking() {
            return;
        }
        let why = match tokio::time::timeout(FIRST, target.read_prices()).await {
            Ok(Ok(new)) => {
                let who = Caller { actor: "engine".into(), ..Default::default() };
                match self.count_by(new, who).await {
                    Ok(_) => return,
                    Err(e) => e.to_string(),
                }
            }
            Ok(Err(f)) => f.message,
            Err(_) => format!("no answer within {} s", FIRST.as_secs()),
        };
        tracing::warn!(
            target = target.name(),
            why,
            "its list prices are not known: what is made there is unpriced"
        );
    }

    /// Whoever has asked for it may go away in between: it is done as a whole.
    async fn count_by(&self, new: PriceList, who: Caller) -> Result<PriceList, Error> {
        let e = self.clone();
        let all = tokio::spawn(async move {
            let _guard = e.inner.pricing.lock().await;
            let commit = Commit {
                settings: vec![(format!("{PREFIX}{}", new.target), new.encode_to_vec())],
                answer: e.answer(&who, String::new(), String::new()),
                ..Default::default()
            };
            e.store().commit(commit).await?;
            e.inner.targets.set_prices(&new).map_err(Error::Refused)?;
            e.price_anew();
            Ok(new)
        });
        all.await.map_err(|e| Error::Internal(e.to_string()))?
    }
}

fn setting(target: &dyn Target) -> String {
    format!("{PREFIX}{}", target.name())
}
