//! What an instance costs on a cluster: by the tariff of its nodes. Without one, kind's nodes are this very host, which draws
//! energy; of any other cluster nobody knows.
use super::{
    Shared,
    census::{kind, usable},
    client::{code, failed},
    own,
};
use crate::prices::{local::Tariff, nodes::Kind};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, api::ListParams};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use syp_engine::{scaling, tariffs::is_energy};
use syp_proto::{journal::Failure, v1};

/// Per hour, what it is made of, and the facts with the price in them.
pub(super) type Priced = (Decimal, Vec<v1::offer::Line>, Value);

/// The kinds of nodes that a pod may run on; none where they may not be seen.
pub(super) async fn nodes(c: &Client) -> Result<BTreeSet<Kind>, Failure> {
    match Api::<Node>::all(c.clone()).list(&ListParams::default()).await {
        Ok(all) => Ok(all.items.iter().filter(|n| usable(n)).map(kind).collect()),
        Err(e) if code(&e) == Some(403) => Ok(BTreeSet::new()),
        Err(e) => Err(failed(&e)),
    }
}

/// By today's tariffs, or as it would be with another one.
pub(super) fn price(
    s: &Shared,
    other: Option<&v1::Tariff>,
    spec: &v1::InstanceSpec,
    facts: &Value,
) -> Priced {
    let (mut prices, mut energy) = (s.prices.read().clone(), s.tariffs.read().now().clone());
    match other {
        Some(t) if t.target == s.name => drop(prices.set(t)),
        Some(t) if is_energy(t) => energy = Tariff::from_api(t).unwrap_or(energy),
        _ => {}
    }
    let spec = &scaling::counted(spec, facts);
    let was = facts["unpriced"].is_string();
    let mut facts = facts.clone();
    if let Some(f) = facts.as_object_mut() {
        f.remove("unpriced");
        f.remove("price_source");
    }
    let by_energy = prices.is_empty() && s.is_kind();
    let nodes: Vec<Kind> = serde_json::from_value(facts["nodes"].clone()).unwrap_or_default();
    let said = prices.rate(&s.name, spec, own::GATE.requests(), &nodes);
    if was && (by_energy || said.is_ok()) {
        // what it cost before, nobody knows
        facts["unpriced_until"] = json!(s.clock.now());
    }
    if by_energy {
        return energy.price(spec, &facts);
    }
    facts["currency"] = json!(energy.currency);
    match said {
        Ok(r) => {
            let replicas = Decimal::from(scaling::range(spec).0);
            facts["replica_hourly"] = json!((r.hourly / replicas).normalize().to_string());
            facts["price_source"] = json!(r.source);
            let mut lines = r.lines;
            if !spec.domains.is_empty() {
                lines.push(v1::offer::Line {
                    kind: "way in".into(),
                    description: "unpriced: what takes the name in is the cluster's, and paid for all its names".into(),
                    hourly: None,
                    shared: true,
                });
            }
            (r.hourly, lines, facts)
        }
        Err(why) => {
            facts["replica_hourly"] = json!("0");
            facts["unpriced"] = json!(why);
            (Decimal::ZERO, vec![], facts)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::{K8sTarget, Options};
    use syp_engine::{clock::Clock, cost::Pricing, step::Target};

    fn target(context: &str, set: &[v1::Tariff]) -> K8sTarget {
        K8sTarget::new(Options {
            kubeconfig: vec![],
            context: context.into(),
            gate_image: None,
            key: vec![].into(),
            tariffs: crate::prices::local::Tariffs::new(set, Tariff::default()),
            prices: crate::prices::nodes::Prices::new(set, &format!("k8s:{context}")),
            kind: None,
            ingress: false,
            clock: Clock::System,
        })
    }

    fn tariff(target: &str) -> v1::Tariff {
        v1::Tariff {
            target: target.into(),
            currency_code: "EUR".into(),
            per_vcpu_hour: "0.04".into(),
            per_gib_hour: "0.005".into(),
            ..Default::default()
        }
    }

    fn spec() -> v1::InstanceSpec {
        v1::InstanceSpec {
            resources: Some(v1::Resources { cpu: "500m".into(), memory: "1Gi".into(), ..Default::default() }),
            scaling: Some(v1::Scaling { min: 2, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_foreign_cluster_has_no_price_until_somebody_says_one_and_kind_draws_energy() {
        let facts = json!({ "namespace": "n" });
        let t = target("prod", &[tariff("k8s:other")]);
        let (hourly, unpriced) = t.reprice(None, &spec(), &facts).unwrap();
        assert_eq!(hourly, Decimal::ZERO);
        let said = Pricing::of_facts(&unpriced);
        assert_eq!(said.unpriced.as_deref(), Some("unpriced: nobody has said what k8s:prod costs"));
        // as it would be, and nothing is kept of that
        let new = tariff("k8s:prod");
        let (hourly, _) = t.reprice(Some(&new), &spec(), &unpriced).unwrap();
        // 2 x (0.5 x 0.04 + 1 x 0.005) = 0.05; with a gate in each (0.01 x 0.04 + 0.015625 x 0.005)
        let both = Decimal::new(5_095_625, 8);
        assert_eq!(hourly, both);
        assert!(!Pricing::of_facts(&t.reprice(None, &spec(), &unpriced).unwrap().1).is_priced());
        t.set_tariff(&tariff("k8s:other")).unwrap();
        assert_eq!(t.reprice(None, &spec(), &unpriced).unwrap().0, Decimal::ZERO, "of another cluster");
        t.set_tariff(&new).unwrap();
        let (hourly, priced) = t.reprice(None, &spec(), &unpriced).unwrap();
        assert_eq!((hourly, priced["replica_hourly"].as_str()), (both, Some("0.025478125")));
        let said = Pricing::of_facts(&priced);
        assert!(said.is_priced() && said.unpriced_until.is_some(), "{priced}");
        assert!(
            said.words().contains("tariff of k8s:prod); unpriced, and not counted, until 20"),
            "{}",
            said.words()
        );
        // the same again is the same: else every look would be a record
        assert_eq!(t.reprice(None, &spec(), &priced).unwrap().1, priced);
        // set before the cluster came to be known
        let t = target("prod", &[new]);
        assert_eq!(t.reprice(None, &spec(), &facts).unwrap().0, both);

        let t = target("kind-dev", &[]);
        let (hourly, priced) = t.reprice(None, &spec(), &facts).unwrap();
        // 2 x (0.5 x 10 W + 1 x 0.4 W) x 0.30 EUR/kWh = 0.00324
        assert_eq!(hourly, Decimal::new(324, 5));
        assert!(Pricing::of_facts(&priced).is_priced() && priced["price_source"].is_null());
        t.set_tariff(&tariff("k8s:kind-dev")).unwrap();
        assert_eq!(t.reprice(None, &spec(), &priced).unwrap().0, both, "who says a price means it");
    }
}
