//! What AWS has billed, by Cost Explorer (`GetCostAndUsage`; API reference "AWS Cost Explorer Service", read 2026-09). Each request costs
//! 0.01 USD; it knows a day's use after 12 to 48 hours, and of tags only from the time on at which they were made cost allocation tags.
use super::{
    Shared,
    query::{CE, Query},
};
use crate::labels::{INSTANCE, STORE};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use syp_engine::{
    clock::Millis,
    failure::{Class, failure},
    id::StoreId,
    step::{Billed, Biller},
};
use syp_proto::journal::Failure;
use time::{Date, Duration, OffsetDateTime};

/// Who bills.
pub(super) const BILLER: Biller = Biller {
    key: "aws",
    name: "Cost Explorer",
    price: "0.01 USD a question",
    unknown: "are 'syp.dev/store' and 'syp.dev/instance' cost allocation tags? An administrator makes them so in the Billing console (for \
              an organization: of its management account), and they count from then on",
};
/// Cost Explorer keeps 13 months; a request is for whole months of them.
const BACK: Duration = Duration::days(365);
/// Pages of groups; each is a request.
const PAGES: usize = 5;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    results_by_time: Vec<Month>,
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Month {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Group {
    keys: Vec<String>,
    metrics: BTreeMap<String, Amount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Amount {
    amount: String,
    unit: String,
}

/// Until now, of everything that carries the store's tag.
///
/// # Errors
/// AWS', or what can't be read as a whole.
pub(super) async fn billed(s: &Shared, store: &StoreId, now: Millis) -> Result<Billed, Failure> {
    let today = OffsetDateTime::from_unix_timestamp(now / 1_000).unwrap_or(OffsetDateTime::UNIX_EPOCH).date();
    asked(&s.clients().await?.query, store, today).await.map_err(not_enabled)
}

/// Cost Explorer says in the words of a missing right that nobody has switched it on.
fn not_enabled(f: Failure) -> Failure {
    if !f.message.contains("not enabled") {
        return f;
    }
    let next = "an administrator opens Cost Explorer once in the Billing console (for an organization: in its management account); \
                it has figures a day later";
    Failure { hint: next.into(), ..f }
}

async fn asked(query: &Query, store: &StoreId, today: Date) -> Result<Billed, Failure> {
    let (mut out, mut page) = (Billed::default(), None);
    for _ in 0..PAGES {
        let said: Answer =
            query.json(CE, "GetCostAndUsage", &question(store, today, page.as_deref())).await?;
        add(&mut out, &said.results_by_time)?;
        page = said.next_page_token;
        if page.is_none() {
            return Ok(out);
        }
    }
    // months come in their order: what is left away would be the newest
    Err(unreadable(format!("its answer has more than {PAGES} pages")))
}

fn unreadable(why: String) -> Failure {
    failure(Class::Terminal, "PROVIDER_ERROR", why, "AWS' own console shows the bill")
}

/// The end is not part of it.
fn question(store: &StoreId, today: Date, page: Option<&str>) -> Value {
    let (from, to) = (today.saturating_sub(BACK), today.saturating_add(Duration::DAY));
    let mut out = json!({
        "TimePeriod": { "Start": from.replace_day(1).unwrap_or(from).to_string(), "End": to.to_string() },
        "Granularity": "MONTHLY",
        "Metrics": [METRIC],
        "Filter": { "Tags": { "Key": STORE, "Values": [store.as_str()] } },
        "GroupBy": [{ "Type": "TAG", "Key": INSTANCE }],
    });
    if let Some(page) = page {
        out["NextPageToken"] = page.into();
    }
    out
}

/// What the lines of the bill say.
const METRIC: &str = "UnblendedCost";

/// A group is called `syp.dev/instance$UID`, with nothing behind the dollar for what carries no such tag.
fn add(out: &mut Billed, months: &[Month]) -> Result<(), Failure> {
    for g in months.iter().flat_map(|m| &m.groups) {
        let uid = g.keys.first().and_then(|k| k.strip_prefix(INSTANCE)?.strip_prefix('$'));
        let Some((uid, m)) = uid.filter(|u| !u.is_empty()).zip(g.metrics.get(METRIC)) else { continue };
        let amount = m.amount.parse::<Decimal>().or_else(|_| Decimal::from_scientific(&m.amount));
        let amount = amount.map_err(|e| unreadable(format!("'{}' is no amount: {e}", m.amount)))?;
        *out.amounts.entry(uid.to_owned()).or_default() += amount;
        out.currency.clone_from(&m.unit);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_summed_by_instance() {
        let group = |key: &str, amount: &str| json!({ "Keys": [key], "Metrics": { METRIC: { "Amount": amount, "Unit": "USD" } } });
        let said: Answer = serde_json::from_value(json!({
            "GroupDefinitions": [{ "Type": "TAG", "Key": INSTANCE }],
            "ResultsByTime": [
                { "TimePeriod": { "Start": "2026-09-01", "End": "2026-10-01" }, "Total": {}, "Estimated": false,
                  "Groups": [group("syp.dev/instance$a", "1.0000000001"), group("syp.dev/instance$", "7")] },
                { "TimePeriod": { "Start": "2026-10-01", "End": "2026-10-03" }, "Total": {}, "Estimated": true,
                  "Groups": [group("syp.dev/instance$a", "0.5"), group("syp.dev/instance$b", "1E-7")] },
            ],
        }))
        .unwrap();
        let mut out = Billed::default();
        add(&mut out, &said.results_by_time).unwrap();
        let of = |uid: &str| out.amounts[uid].to_string();
        assert_eq!(
            (of("a"), of("b"), out.currency.as_str()),
            ("1.5000000001".into(), "0.0000001".into(), "USD")
        );
        assert_eq!(out.amounts.len(), 2);
        let odd = serde_json::from_value::<Answer>(
            json!({ "ResultsByTime": [{ "Groups": [group("syp.dev/instance$a", "much")] }] }),
        );
        assert!(add(&mut out, &odd.unwrap().results_by_time).is_err(), "a part is not shown as all");
    }

    #[test]
    fn a_question_is_for_whole_months_and_for_one_store() {
        let store = StoreId::random();
        let day = Date::from_calendar_date(2026, time::Month::March, 31).unwrap();
        let q = question(&store, day, Some("p"));
        assert_eq!(q["TimePeriod"], json!({ "Start": "2025-03-01", "End": "2026-04-01" }));
        assert_eq!(q["Filter"]["Tags"]["Values"][0], store.as_str());
        assert_eq!(q["NextPageToken"], "p");
    }
}
