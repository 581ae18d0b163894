//! The targets of an engine: those that are always there, and those that come to be known when somebody names them, such as a
//! cluster of the user's kubeconfig.
use crate::{
    failure::{Class, failure},
    step::Target,
};
use parking_lot::RwLock;
use std::{collections::BTreeMap, sync::Arc};
use syp_proto::{
    journal::Failure,
    v1::{PriceList, Tariff},
};
use tokio::sync::{Semaphore, watch};

/// Calls at one target at a time: a start with thousands of instances to go on with must not run over its provider. Many of
/// them only wait (a drain, a probe), so there are more than a provider works on at once.
const PLACES: usize = 256;

/// Finds targets by name.
pub trait Resolve: Send + Sync {
    /// The target that a name means, perhaps under a longer name of its own; `None`: it is no name of this kind.
    ///
    /// # Errors
    /// Why it can't be had, in words.
    fn resolve(&self, name: &str) -> Result<Option<Arc<dyn Target>>, Failure>;
    /// Another price from now on, also for targets that are found later.
    fn set_tariff(&self, _: &Tariff) {}
    /// Other list prices from now on, also for targets that are found later.
    fn set_prices(&self, _: &PriceList) {}
}

/// A target and its places for calls.
pub(crate) struct Placed {
    pub target: Arc<dyn Target>,
    pub places: Semaphore,
}

/// All that are known.
pub(crate) struct Targets {
    held: RwLock<BTreeMap<String, Arc<Placed>>>,
    resolve: Option<Arc<dyn Resolve>>,
    /// Counts them, for those who follow what comes.
    count: watch::Sender<usize>,
}

/// The part of `spec.target` that names a target: a context may hold anything, others have a location behind a slash.
pub(crate) fn key(name: &str) -> &str {
    let name = name.strip_prefix("providers/").unwrap_or(name);
    if name.contains(':') { name } else { name.split('/').next().unwrap_or_default() }
}

// === impl Targets ===

impl Targets {
    pub fn new(all: Vec<Arc<dyn Target>>, resolve: Option<Arc<dyn Resolve>>) -> Self {
        let count = watch::channel(0).0;
        let out = Self { held: RwLock::default(), resolve, count };
        all.into_iter().for_each(|t| drop(out.hold(t)));
        out
    }

    fn hold(&self, target: Arc<dyn Target>) -> Arc<Placed> {
        let mut held = self.held.write();
        let name = target.name().to_owned();
        // two that ask at once get one
        let placed = held
            .entry(name)
            .or_insert_with(|| Arc::new(Placed { target, places: Semaphore::new(PLACES) }))
            .clone();
        self.count.send_replace(held.len());
        placed
    }

    /// By the name in `spec.target`.
    ///
    /// # Errors
    /// `TARGET_UNKNOWN`, or why it can't be had.
    pub fn get(&self, name: &str) -> Result<Arc<Placed>, Failure> {
        let key = key(name);
        if let Some(held) = self.held.read().get(key) {
            return Ok(Arc::clone(held));
        }
        if let Some(found) = self.resolve.as_ref().map_or(Ok(None), |r| r.resolve(key))? {
            return Ok(self.hold(found));
        }
        let name = name.strip_prefix("providers/").unwrap_or(name);
        let known = self.held.read().keys().cloned().collect::<Vec<_>>().join(", ");
        let more = if self.resolve.is_some() { ", k8s:CONTEXT, aws:REGION" } else { "" };
        Err(failure(
            Class::Terminal,
            "TARGET_UNKNOWN",
            format!("there is no target '{name}'"),
            format!("use one of: {known}{more}"),
        ))
    }

    /// Another price from now on: for those that come to be known first, so that nobody is left out in between.
    ///
    /// # Errors
    /// What a target does not take.
    pub fn set_tariff(&self, new: &Tariff) -> Result<(), Failure> {
        if let Some(r) = &self.resolve {
            r.set_tariff(new);
        }
        self.all().iter().try_for_each(|t| t.set_tariff(new))
    }

    /// Other list prices from now on; the resolver first, likewise.
    ///
    /// # Errors
    /// What the target does not take.
    pub fn set_prices(&self, new: &PriceList) -> Result<(), Failure> {
        if let Some(r) = &self.resolve {
            r.set_prices(new);
        }
        self.all().iter().filter(|t| t.name() == new.target).try_for_each(|t| t.set_prices(new))
    }

    /// All that are known by now.
    pub fn all(&self) -> Vec<Arc<dyn Target>> {
        self.held.read().values().map(|p| Arc::clone(&p.target)).collect()
    }

    /// Wakes whoever follows them.
    pub fn follow(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn a_context_is_part_of_the_name_and_a_location_is_not() {
        assert_eq!(key("providers/docker/locations/x"), "docker");
        assert_eq!(key("k8s:arn:aws:eks:eu-west-1:1:cluster/x"), "k8s:arn:aws:eks:eu-west-1:1:cluster/x");
        assert_eq!(key("k8s"), "k8s");
    }
}
