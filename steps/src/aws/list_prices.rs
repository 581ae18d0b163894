//! List prices of a region as AWS tells them today, by the Price List API (`GetProducts`; AWS Billing API reference "Price List", read
//! 2026-09). It is free of charge.
use super::{Shared, client, query::PRICING};
use crate::prices::aws::Wanted;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use syp_engine::{
    clock::timestamp,
    failure::{Class, failure},
};
use syp_proto::{
    journal::Failure,
    v1::{PriceList, price_list::Price},
};

/// Products of a service in a region come in pages of a hundred; the largest service here has a few of them.
const PAGES: usize = 30;
/// The only currency of the partition `aws`.
const CURRENCY: &str = "USD";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    /// Each a JSON text of its own.
    #[serde(default)]
    price_list: Vec<String>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    product: Product,
    #[serde(default)]
    terms: Terms,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Product {
    product_family: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Terms {
    #[serde(rename = "OnDemand", default)]
    on_demand: BTreeMap<String, Term>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Term {
    #[serde(default)]
    price_dimensions: BTreeMap<String, Dimension>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dimension {
    #[serde(default)]
    begin_range: String,
    #[serde(default)]
    price_per_unit: BTreeMap<String, String>,
}

/// All that an instance is priced by.
///
/// # Errors
/// AWS', or which price its list does not have: what counted before goes on to count.
pub(super) async fn read(s: &Shared) -> Result<PriceList, Failure> {
    if client::partition(&s.region).0 != "aws" {
        let why = format!("the price list of {} is in another partition and currency", s.region);
        return Err(failure(Class::Terminal, "NOT_SUPPORTED", why, "it serves all the same, unpriced"));
    }
    let wanted = s.built_in.wanted();
    let query = &s.clients().await?.query;
    let services: BTreeSet<&str> = wanted.iter().map(|w| w.service.as_str()).collect();
    let mut prices = vec![];
    for service in services {
        let (mut entries, mut page) = (vec![], None);
        for _ in 0..PAGES {
            let said: Page =
                query.json(PRICING, "GetProducts", &question(service, &s.region, page.as_deref())).await?;
            entries.extend(said.price_list.iter().filter_map(|e| serde_json::from_str::<Entry>(e).ok()));
            page = said.next_token.filter(|t| !t.is_empty());
            if page.is_none() {
                break;
            }
        }
        prices.extend(wanted.iter().filter(|w| w.service == service).filter_map(|w| found(w, &entries)));
    }
    let missing: Vec<_> =
        wanted.iter().filter(|w| !prices.iter().any(|p: &Price| p.key == w.key)).map(|w| w.key).collect();
    if !missing.is_empty() {
        return Err(failure(
            Class::Terminal,
            "PROVIDER_ERROR",
            format!("the price list of {} has no {}", s.region, missing.join(", ")),
            "what counted before goes on to count; is this a region with Fargate and load balancers?",
        ));
    }
    Ok(PriceList {
        target: s.name.clone(),
        currency_code: CURRENCY.into(),
        as_of: timestamp(s.clock.now()),
        source: "AWS Price List API".into(),
        prices,
    })
}

fn question(service: &str, region: &str, page: Option<&str>) -> Value {
    let mut out = json!({
        "ServiceCode": service,
        "Filters": [{ "Type": "TERM_MATCH", "Field": "regionCode", "Value": region }],
        "FormatVersion": "aws_v1",
        "MaxResults": 100,
    });
    if let Some(page) = page {
        out["NextToken"] = page.into();
    }
    out
}

/// The price of a use: of its steps by amount the first that is not free, since what is free is so for the whole account.
fn found(w: &Wanted, entries: &[Entry]) -> Option<Price> {
    let mut best: Option<(Decimal, Decimal, String)> = None;
    for e in entries {
        let Some(usage) = e.product.attributes.get("usagetype") else { continue };
        if !w.is(usage) || w.family.is_some() && w.family != e.product.product_family {
            continue;
        }
        for d in e.terms.on_demand.values().flat_map(|t| t.price_dimensions.values()) {
            let Some(price) = d.price_per_unit.get(CURRENCY).and_then(|p| p.parse::<Decimal>().ok()) else {
                continue;
            };
            let from: Decimal = d.begin_range.parse().unwrap_or_default();
            if !price.is_zero() && best.as_ref().is_none_or(|(least, ..)| from < *least) {
                best = Some((from, price, usage.clone()));
            }
        }
    }
    let (_, price, usage_type) = best?;
    Some(Price { key: w.key.into(), unit: w.unit.clone(), amount: price.normalize().to_string(), usage_type })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prices::aws::Catalogue;

    fn entry(family: &str, usage: &str, steps: &[(&str, &str)]) -> Entry {
        let dimensions: serde_json::Map<String, Value> = steps
            .iter()
            .map(|(from, usd)| {
                (
                    format!("SKU.T.{from}"),
                    json!({ "unit": "x", "beginRange": from, "pricePerUnit": { "USD": usd } }),
                )
            })
            .collect();
        serde_json::from_value(json!({
            "product": { "productFamily": family, "attributes": { "usagetype": usage, "regionCode": "eu-west-1" }, "sku": "SKU" },
            "serviceCode": "X", "publicationDate": "2026-11-01T00:00:00Z",
            "terms": { "OnDemand": { "SKU.T": { "priceDimensions": dimensions, "termAttributes": {} } } },
        }))
        .unwrap()
    }

    #[test]
    fn the_first_step_that_costs_counts_and_the_family_tells_load_balancers_apart() {
        let wanted = Catalogue::built_in().unwrap().wanted();
        let of = |key: &str, entries: &[Entry]| {
            let w = wanted.iter().find(|w| w.key == key).unwrap();
            found(w, entries).map(|p| p.amount)
        };
        let logs = [entry(
            "Data Payload",
            "EU-DataProcessing-Bytes",
            &[("5", "0.57"), ("0", "0.0000000000"), ("10240", "0.2")],
        )];
        assert_eq!(of("logs_ingest_gb", &logs).as_deref(), Some("0.57"));
        let nameless = r#"{ "product": { "attributes": {} } }"#;
        let balancers = [
            serde_json::from_str(nameless).unwrap(),
            entry("Load Balancer-Network", "EU-LoadBalancerUsage", &[("0", "0.1")]),
            entry("Load Balancer-Application", "EU-LoadBalancerUsage", &[("0", "0.0252000000")]),
        ];
        assert_eq!(of("alb_hour", &balancers).as_deref(), Some("0.0252"));
        assert_eq!(of("alb_hour", &balancers[..2]), None);
        assert_eq!(of("fargate_vcpu_hour", &balancers), None);
    }
}
