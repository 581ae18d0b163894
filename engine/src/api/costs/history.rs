//! What was spent: by instance, day, revision or label.
use crate::{
    api::{
        Api,
        authz::Authz,
        page,
        status::{invalid, refuse},
        validate,
    },
    budget,
    clock::{Millis, millis, timestamp},
    cost, meter, revision, view,
};
use rust_decimal::{Decimal, prelude::ToPrimitive};
use std::collections::{BTreeMap, BTreeSet};
use syp_auth::policy::Role;
use syp_proto::{journal::Instance, v1};
use tonic::{Code, Status};

/// Destroyed instances that are looked at for what they have cost.
const DESTROYED: usize = 10_000;

/// What a row is of: each thing that was asked for, with its value.
type Group = Vec<(String, String)>;

/// Percent of the budget that is spent; 0 without one.
pub(super) fn budget_percent(i: &Instance, now: Millis) -> i32 {
    let Some(b) = i.spec.as_ref().and_then(|s| s.budget.as_ref()) else { return 0 };
    let limit = b.limit.as_ref().map_or(Decimal::ZERO, cost::decimal);
    if limit <= Decimal::ZERO {
        return 0;
    }
    (budget::spent(i, b, now) / limit * Decimal::from(100)).floor().to_i32().unwrap_or(i32::MAX)
}

impl Api {
    pub(super) async fn spent_by(
        &self,
        a: &Authz,
        r: v1::QueryCostsRequest,
    ) -> Result<v1::QueryCostsResponse, Status> {
        if !r.currency_code.is_empty() && r.currency_code != *self.currency {
            return Err(invalid("currency_code", &format!("this engine counts in {}", self.currency)));
        }
        let by = if r.group_by.is_empty() { vec!["instance".to_owned()] } else { r.group_by.clone() };
        if let Some(odd) = by
            .iter()
            .find(|g| !matches!(g.as_str(), "instance" | "day" | "revision") && !g.starts_with("label:"))
        {
            return Err(invalid("group_by", &format!("'{odd}': instance, day, revision or label:KEY")));
        }
        let now = self.engine.clock().now();
        let (from, until) = (r.start_time.as_ref().map(millis), r.end_time.as_ref().map(millis));
        if from.zip(until).is_some_and(|(f, u)| f >= u) {
            return Err(invalid("end_time", "after start_time"));
        }
        // sums of two currencies are none
        let mut rows: BTreeMap<(Group, String), (Decimal, i64, i64, bool)> = BTreeMap::new();
        for i in self.asked(a, &r).await? {
            let pricing = cost::Pricing::of(&i);
            let currency = self.currency_in(&i).to_owned();
            let unpriced = !pricing.is_priced() || pricing.unpriced_until.is_some();
            for p in meter::pieces(&i, now) {
                let within = from.is_none_or(|f| p.day >= meter::day(f))
                    && until.is_none_or(|u| p.day <= meter::day(u - 1));
                if !within {
                    continue;
                }
                let group = by.iter().map(|g| (g.clone(), value(&i, &p, g))).collect();
                let row =
                    rows.entry((group, currency.clone())).or_insert((Decimal::ZERO, p.day, p.day, false));
                row.0 += p.rate_ms;
                (row.1, row.2, row.3) = (row.1.min(p.day), row.2.max(p.day), row.3 || unpriced);
            }
        }
        // what had no price at all is not shown as 0
        let money = |d: Decimal, unpriced: bool, currency: &str| {
            (!unpriced || !d.is_zero()).then(|| cost::money(d / Decimal::from(meter::HOUR_MS), currency))
        };
        let total: Decimal = rows.values().map(|r| r.0).sum();
        let currencies: BTreeSet<String> = rows.keys().map(|(_, c)| c.clone()).collect();
        let of_all = currencies.first().map_or(&*self.currency, String::as_str);
        let total = money(total, rows.values().any(|r| r.3), of_all).filter(|_| currencies.len() < 2);
        let all = rows.into_iter().map(|((group, currency), (sum, first, last, unpriced))| v1::CostRow {
            group: group.into_iter().collect(),
            accrued: money(sum, unpriced, &currency),
            billed: None,
            start_time: timestamp(first * meter::DAY_MS),
            end_time: timestamp((last + 1) * meter::DAY_MS),
        });
        let key = |row: &v1::CostRow| format!("{:?}", row.group);
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(key);
        let bound = format!("{}|{by:?}|{}", r.parent, r.filter);
        let (rows, next_page_token) = page::cut(all, r.page_size, &r.page_token, &bound, key)?;
        Ok(v1::QueryCostsResponse { rows, next_page_token, total })
    }

    /// One instance, or all of a project: those that are destroyed have cost something too.
    async fn asked(&self, a: &Authz, r: &v1::QueryCostsRequest) -> Result<Vec<Instance>, Status> {
        if r.parent.contains("/instances/") {
            return Ok(vec![Instance::clone(&*self.any(a, &r.parent, Role::Viewer).await?)]);
        }
        let project = validate::parent(&r.parent)?;
        let filter = page::Filter::parse(&r.filter)?;
        let now = self.engine.clock().now();
        let mut all: Vec<Instance> = self.engine.cells().iter().map(|c| Instance::clone(&c.get())).collect();
        let gone = self.engine.store().load_destroyed(DESTROYED).await.map_err(crate::error::Error::from)?;
        if gone.len() == DESTROYED {
            return Err(refuse(
                Code::ResourceExhausted,
                "TOO_MANY_INSTANCES",
                format!("more than {DESTROYED} destroyed instances would have to be read"),
                "ask for one instance",
            ));
        }
        all.extend(gone.into_iter().filter_map(|l| l.instance.ok()));
        all.retain(|i| {
            (project == "-" || i.project == project)
                && a.role_on(i).is_some_and(|role| role >= Role::Viewer)
                && filter.matches(&view::of_projection(i, now))
        });
        Ok(all)
    }
}

fn value(i: &Instance, p: &meter::Piece, group: &str) -> String {
    match group {
        "instance" => format!("{}@{}", i.name, &i.uid[..i.uid.len().min(8)]),
        "day" if p.day == 0 => "before".into(),
        "day" => {
            timestamp(p.day * meter::DAY_MS).map_or_else(String::new, |t| t.to_string()[..10].to_owned())
        }
        "revision" if p.revision == 0 => "before".into(),
        "revision" => revision::name(&i.name, p.revision),
        label => {
            let key = label.strip_prefix("label:").unwrap_or_default();
            i.labels.get(key).cloned().unwrap_or_default()
        }
    }
}
