//! The target `aws:REGION`.
use super::{
    bill, check, client, clients::Clients, config, domain, door::Front, drain, examine, figures, isolation,
    list_prices, listing, logs, observe, other::Other, plan, preflight, price, probe, pull, stack_step, used,
    values,
};
use crate::{k8s::total::Totals, prices::aws::Catalogue};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use parking_lot::{Mutex, RwLock};
use rust_decimal::Decimal;
use secrecy::{SecretSlice, SecretString};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use syp_auth::jwks::Wanted;
use syp_engine::{
    clock::{Clock, Millis},
    examined::Examined,
    failure::{Class, failure},
    graph::RunKind,
    id::{InstanceId, StoreId},
    plan::Plan,
    step::{
        Billed, Biller, DynStep, Have, Held, LogLines, LogQuery, News, Of, Owner, Preflight, Stats, StepCx,
        Target, Uses,
    },
};
use syp_proto::{
    journal::{Failure, Found},
    v1,
};
use tokio::sync::OnceCell;

/// Between two looks at a stack that AWS works on.
const PAUSE: Duration = Duration::from_secs(3);

/// What an AWS target is made of.
pub struct Options {
    /// `eu-west-1`.
    pub region: String,
    /// Where tasks get the gate's image from.
    pub gate_image: Option<String>,
    /// The engine's own key, from which each gate's admin token is derived.
    pub key: SecretSlice<u8>,
    /// Prices.
    pub prices: Catalogue,
    /// Time.
    pub clock: Clock,
}

pub(super) struct Shared {
    /// `aws:REGION`.
    pub name: String,
    pub region: String,
    pub gate_image: Option<String>,
    pub key: SecretSlice<u8>,
    /// Of all prices.
    pub currency: String,
    /// What comes with the program.
    pub built_in: Catalogue,
    /// What counts.
    pub prices: RwLock<Catalogue>,
    pub clock: Clock,
    pub pause: Duration,
    /// Since when this engine looks.
    pub started_ms: u64,
    /// Counters of each instance's gates, as of one.
    pub totals: Mutex<HashMap<InstanceId, Totals>>,
    /// What CloudWatch told last.
    pub figures: Mutex<figures::Kept>,
    clients: OnceCell<Clients>,
    identity: OnceCell<Identity>,
}

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Number of the account.
    pub account: String,
    /// Of the user or role.
    pub arn: String,
}

/// A region of an account.
pub struct AwsTarget {
    shared: Arc<Shared>,
    steps: BTreeMap<&'static str, Arc<dyn DynStep>>,
}

// === impl Shared ===

impl Shared {
    /// The clients, made when they are needed first.
    pub async fn clients(&self) -> Result<&Clients, Failure> {
        self.clients.get_or_try_init(|| Clients::new(&self.region)).await
    }

    /// [`crate::admin::token`].
    pub fn admin_token(&self, owner: &Owner) -> SecretString {
        crate::admin::token(&self.key, owner)
    }

    /// Asked anew: a login may have ended.
    pub async fn who(&self) -> Result<Identity, Failure> {
        let said = self.clients().await?.sts.get_caller_identity().send().await;
        let said = said.map_err(|e| client::failed("sts:GetCallerIdentity", &e))?;
        let text = |s: Option<&str>| s.unwrap_or_default().to_owned();
        Ok(Identity { account: text(said.account()), arn: text(said.arn()) })
    }

    /// Whose rights CloudFormation uses: the role that `bootstrap.yaml` makes.
    pub async fn role(&self) -> Result<String, Failure> {
        let who = self.identity.get_or_try_init(|| self.who()).await?;
        let partition = client::partition(&self.region).0;
        Ok(format!("arn:{partition}:iam::{}:role/sypctl/{ROLE}", who.account))
    }
}

/// The most that the role of a task may do.
pub(super) fn boundary(partition: &str, account: &str) -> String {
    format!("arn:{partition}:iam::{account}:policy/sypctl/{BOUNDARY}")
}

/// Of `bootstrap.yaml`.
pub(super) const ROLE: &str = "sypctl-cloudformation";
/// Of `bootstrap.yaml`.
pub(super) const BOUNDARY: &str = "sypctl-task-boundary";

// === impl AwsTarget ===

impl AwsTarget {
    /// Connects lazily: an account that can't be reached is met at preflight, with words.
    pub fn new(o: Options) -> Self {
        let shared = Arc::new(Shared {
            name: format!("aws:{}", o.region),
            region: o.region,
            gate_image: o.gate_image,
            key: o.key,
            currency: o.prices.currency.clone(),
            prices: RwLock::new(o.prices.clone()),
            built_in: o.prices,
            started_ms: u64::try_from(o.clock.now()).unwrap_or(0),
            clock: o.clock,
            pause: PAUSE,
            totals: Mutex::default(),
            figures: Mutex::default(),
            clients: OnceCell::new(),
            identity: OnceCell::new(),
        });
        let s = || Arc::clone(&shared);
        let mut all: Vec<Arc<dyn DynStep>> = vec![
            Arc::new(check::Check),
            Arc::new(config::Config(s())),
            Arc::new(domain::Domain(s())),
            Arc::new(drain::Drain(s())),
            Arc::new(isolation::Isolation(s())),
            Arc::new(probe::Probe(s())),
            Arc::new(pull::Pull(s())),
            Arc::new(stack_step::Stack(s())),
            Arc::new(values::Values(s())),
        ];
        all.extend(listing::UNMADE.map(|kind| Arc::new(Other { shared: s(), kind }) as Arc<dyn DynStep>));
        let steps = all.into_iter().map(|s| (s.kind(), s)).collect();
        Self { shared, steps }
    }
}

impl Target for AwsTarget {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn step(&self, kind: &str) -> Option<Arc<dyn DynStep>> {
        self.steps.get(kind).cloned()
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.steps.keys().copied().collect()
    }

    fn plan(
        &self,
        kind: RunKind,
        owner: &Owner,
        spec: &v1::InstanceSpec,
        facts: &Value,
        have: &Have<'_>,
    ) -> Plan {
        plan::plan(&self.shared.name, kind, owner, spec, facts, have)
    }

    fn preflight<'a>(
        &'a self,
        _: &'a Owner,
        spec: &'a v1::InstanceSpec,
        held: Option<&'a Held<'a>>,
    ) -> BoxFuture<'a, Result<Preflight, Failure>> {
        Box::pin(preflight::check(&self.shared, spec, held))
    }

    fn currency(&self) -> Option<&str> {
        Some(&self.shared.currency)
    }

    fn prices(&self) -> Option<v1::PriceList> {
        Some(self.shared.prices.read().list(&self.shared.region))
    }

    fn read_prices(&self) -> BoxFuture<'_, Result<v1::PriceList, Failure>> {
        Box::pin(list_prices::read(&self.shared))
    }

    fn set_prices(&self, new: &v1::PriceList) -> Result<(), Failure> {
        let wrong = |e| {
            let next = format!("'sypctl prices refresh {}' reads them anew", new.target);
            failure(Class::Terminal, "INTERNAL", format!("the list prices of {}: {e}", new.target), next)
        };
        *self.shared.prices.write() = self.shared.built_in.with(&self.shared.region, new).map_err(wrong)?;
        Ok(())
    }

    fn biller(&self) -> Option<Biller> {
        // others have another Cost Explorer, or none
        (client::partition(&self.shared.region).0 == "aws").then_some(bill::BILLER)
    }

    fn billed<'a>(&'a self, store: &'a StoreId, now: Millis) -> BoxFuture<'a, Result<Billed, Failure>> {
        Box::pin(bill::billed(&self.shared, store, now))
    }

    fn reprice(
        &self,
        _: Option<&v1::Tariff>,
        spec: &v1::InstanceSpec,
        facts: &Value,
    ) -> Option<(Decimal, Value)> {
        let (hourly, _, facts) = price::price(&self.shared, spec, facts);
        Some((hourly, facts))
    }

    fn list<'a>(
        &'a self,
        store: &'a StoreId,
        of: Option<Of<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        Box::pin(listing::list(&self.shared, store, of))
    }

    fn remove<'a>(&'a self, _: &'a StoreId, found: &'a Found) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(listing::remove(&self.shared, found))
    }

    fn push_gate<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(config::push(&self.shared, cx))
    }

    fn wanted_key<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<Option<Wanted>, Failure>> {
        Box::pin(async move {
            let Some(front) = Front::of(cx) else {
                // none yet: the answer of one that knows of no key takes as long
                tokio::time::sleep(PAUSE).await;
                return Ok(None);
            };
            front.wanted(&self.shared.admin_token(&cx.owner)).await
        })
    }

    fn stats<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<Stats, Failure>> {
        Box::pin(observe::stats(&self.shared, cx))
    }

    fn holds_now<'a>(
        &'a self,
        cx: &'a StepCx,
        condition: &str,
    ) -> Option<BoxFuture<'a, Result<Option<String>, Failure>>> {
        (condition == domain::RESOLVES).then(|| domain::resolves(cx).boxed())
    }

    fn figures<'a>(
        &'a self,
        cx: &'a StepCx,
        from: Millis,
        until: Millis,
    ) -> BoxFuture<'a, Result<Option<v1::ProviderFigures>, Failure>> {
        Box::pin(figures::read(&self.shared, cx, from, until))
    }

    fn used<'a>(&'a self, cx: &'a StepCx, from: Millis, until: Millis) -> Option<Uses<'a>> {
        Some(Box::pin(used::read(&self.shared, cx, from, until)))
    }

    fn logs<'a>(&'a self, cx: &'a StepCx, q: LogQuery) -> BoxFuture<'a, Result<LogLines, Failure>> {
        Box::pin(logs::logs(Arc::clone(&self.shared), cx, q))
    }

    fn check(&self) -> BoxFuture<'_, Result<String, Failure>> {
        Box::pin(async move {
            let who = self.shared.who().await?;
            Ok(format!("account {} as {} in {}", who.account, who.arn, self.shared.region))
        })
    }

    fn examine<'a>(&'a self, spec: &'a v1::InstanceSpec) -> BoxFuture<'a, Examined> {
        Box::pin(examine::examine(&self.shared, spec))
    }

    /// AWS tells of changes by services that cost and need an address of ours: it is looked at now and then instead.
    fn changes<'a>(&'a self, _: &'a StoreId) -> BoxFuture<'a, Result<News, Failure>> {
        Box::pin(async move {
            self.shared.who().await?;
            Ok(stream::pending().boxed())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_teardown_may_find_has_a_step_that_removes_it() {
        let prices = Catalogue::built_in().unwrap();
        let target = AwsTarget::new(Options {
            region: "eu-west-1".into(),
            gate_image: None,
            key: vec![0; 32].into(),
            prices,
            clock: Clock::System,
        });
        for kind in listing::kinds() {
            assert!(target.step(kind).is_some(), "{kind}");
        }
    }
}
