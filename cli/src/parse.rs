//! Words of the command line that have a form: names, members, durations, quantities.
use prost_types::Duration;
use rust_decimal::Decimal;
use std::path::Path;
use syp_proto::v1::{
    self, Budget,
    access_policy::{Effect, Rule},
    budget::{Action, Period, Threshold},
};

/// Highest port that can be sealed off (a routing rule can't name 65535); the engine refuses it too.
pub const MAX_PORT: u16 = 65_534;

/// A port of an app.
pub fn port(text: &str) -> Result<u16, String> {
    number(text, 1, MAX_PORT).ok_or_else(|| format!("a port from 1 to {MAX_PORT}"))
}

/// How many replicas.
pub fn replicas(text: &str) -> Result<i32, String> {
    number(text, 1, 64).ok_or_else(|| "1 to 64 replicas".into())
}

/// How many replicas, or between which numbers: `2`, `1-5`.
pub fn range(text: &str) -> Result<(i32, i32), String> {
    let Some((min, max)) = text.split_once('-').filter(|(min, _)| !min.is_empty()) else {
        return replicas(text).map(|n| (n, n)).map_err(|e| format!("{e}, or a range such as 1-5"));
    };
    match (replicas(min), replicas(max)) {
        (Ok(min), Ok(max)) if min <= max => Ok((min, max)),
        _ => Err("a range of 1 to 64 replicas, such as 1-5".into()),
    }
}

/// Percent.
pub fn percent(text: &str) -> Result<i32, String> {
    number(text, 1, 100).ok_or_else(|| "1 to 100 percent".into())
}

/// Requests a second.
pub fn rps(text: &str) -> Result<f64, String> {
    number(text, 0.001, 1e6).ok_or_else(|| "0.001 to 1000000 requests a second".into())
}

/// How many lines.
pub fn lines(text: &str) -> Result<i32, String> {
    number(text, 1, i32::MAX).ok_or_else(|| "a number of lines, 1 or more".into())
}

fn number<N: std::str::FromStr + PartialOrd>(text: &str, least: N, most: N) -> Option<N> {
    text.parse().ok().filter(|n| *n >= least && *n <= most)
}

/// An address to listen on.
pub fn listen(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| "an IP address and a port, such as 127.0.0.1:7443 or 0.0.0.0:7443".into())
}

/// An audience of instances: not the control plane's own.
///
/// # Errors
/// What it may be.
pub fn audience(text: &str) -> Result<String, String> {
    match text {
        "" => Err("the name that the tokens' 'aud' has".into()),
        syp_engine::api::identity::API_AUDIENCE => {
            Err("that is the control plane's own: a token for an instance must not drive the engine".into())
        }
        name => Ok(name.to_owned()),
    }
}

/// The URL of an identity provider.
pub fn issuer(text: &str) -> Result<String, String> {
    let uri: Option<http::Uri> = text.parse().ok();
    let whole = uri.filter(|u| u.host().is_some() && matches!(u.scheme_str(), Some("https" | "http")));
    match whole {
        Some(_) => Ok(text.to_owned()),
        None => Err("the issuer's URL, such as https://login.example.com".into()),
    }
}

/// A variable and its value. Other names can't be set in a shell, and a space in one is a mistake.
pub fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = key_value(text)?;
    if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("'{name}' can't be the name of a variable: it has a space"));
    }
    Ok((name, value))
}

/// An instance's name, perhaps with `@uid`, perhaps in full.
pub fn name(text: &str) -> Result<String, String> {
    let short = text.rsplit('/').next().unwrap_or(text);
    let (id, uid) = short.split_once('@').map_or((short, None), |(n, u)| (n, Some(u)));
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let first = id.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    if !(first && id.len() <= 40 && id.chars().all(ok) && !id.ends_with('-')) {
        return Err(
            "names have 1 to 40 lower-case letters, digits and hyphens, beginning with a letter".into()
        );
    }
    if uid.is_some_and(|u| u.is_empty() || !u.chars().all(|c| c.is_ascii_hexdigit() || c == '-')) {
        return Err("behind '@' comes the uid of an incarnation, as 'sypctl show' prints it".into());
    }
    Ok(text.to_owned())
}

/// A project; `-` stands for all of them in lists.
pub fn project(text: &str) -> Result<String, String> {
    let fine = text == "-" || !text.contains(['/', '@']) && name(text).is_ok();
    if fine {
        return Ok(text.to_owned());
    }
    Err("projects have 1 to 40 lower-case letters, digits and hyphens, beginning with a letter; '-' is all of them in lists".into())
}

/// The full name of an instance.
pub fn full_name(project: &str, text: &str) -> String {
    if text.starts_with("projects/") {
        text.to_owned()
    } else {
        format!("projects/{project}/instances/{text}")
    }
}

/// The short name in a full one, without uid.
pub fn short_name(full: &str) -> &str {
    let short = full.rsplit('/').next().unwrap_or(full);
    short.split('@').next().unwrap_or(short)
}

/// A member of a policy; a bare address is a user.
pub fn member(text: &str) -> Result<String, String> {
    let Some((kind, value)) = text.split_once(':') else {
        return if text.contains('@') && !text.starts_with('@') && !text.ends_with('@') {
            Ok(format!("user:{text}"))
        } else {
            Err("say what it is: user:ADDRESS, group:NAME, domain:example.com, sub:SUBJECT, token:ID or claim:NAME=VALUE".into())
        };
    };
    if value.trim().is_empty() {
        return Err(format!("nothing follows '{kind}:'"));
    }
    match kind {
        "user" if !value.contains('@') => Err("a user is an e-mail address: user:alice@example.com".into()),
        "domain" if value.contains('@') || !value.contains('.') => {
            Err("a domain, such as domain:example.com".into())
        }
        "claim" if value.split_once('=').is_none_or(|(k, v)| k.is_empty() || v.is_empty()) => {
            Err("a claim is claim:NAME=VALUE".into())
        }
        "user" | "group" | "domain" | "sub" | "token" | "claim" => Ok(text.to_owned()),
        _ => Err(format!("'{kind}:' is not known; members are user: group: domain: sub: token: claim:")),
    }
}

/// Rules that admit members: one for the addresses, groups and subjects, one for each claim.
pub fn rules(members: &[String], effect: Effect, role: v1::Role, paths: &[String]) -> Vec<Rule> {
    let base = Rule {
        effect: effect as i32,
        role: role as i32,
        path_prefixes: paths.to_vec(),
        ..Default::default()
    };
    let (claims, plain): (Vec<_>, Vec<_>) = members.iter().cloned().partition(|m| m.starts_with("claim:"));
    let mut out = Vec::new();
    if !plain.is_empty() {
        out.push(Rule { members: plain, ..base.clone() });
    }
    for c in claims {
        if let Some((k, v)) = c.trim_start_matches("claim:").split_once('=') {
            out.push(Rule { claims: [(k.to_owned(), v.to_owned())].into(), ..base.clone() });
        }
    }
    out
}

/// A length of time: `90s`, `10m`, `8h`, `1h 30m`.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("a length of time such as 90s, 10m or 8h ({e})"))
}

/// As the API has it.
pub fn proto_duration(d: std::time::Duration) -> Duration {
    Duration {
        seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(d.subsec_nanos()).unwrap_or(0),
    }
}

/// `K=V`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((k, v)) if !k.trim().is_empty() => Ok((k.to_owned(), v.to_owned())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

/// `5EUR/day:drain`, `20EUR/month:50%notify,100%destroy`. With one word for the end there is a notice at 80 % too; with none there
/// are notices only.
pub fn budget(text: &str) -> Result<Budget, String> {
    let form = || "such as 5EUR/day:drain or 20EUR/month:50%notify,100%destroy".to_owned();
    let (amount, rest) = text.split_once('/').ok_or_else(form)?;
    let digits = amount.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let currency = &amount[digits.len()..];
    let value: Decimal = digits.parse().map_err(|_| form())?;
    if currency.len() != 3 || value <= Decimal::ZERO {
        return Err(form());
    }
    let (period, lines) = rest.split_once(':').unwrap_or((rest, ""));
    let period = match period {
        "day" => Period::Day,
        "week" => Period::Week,
        "month" => Period::Month,
        "lifetime" | "life" => Period::Lifetime,
        other => return Err(format!("'{other}': day, week, month or lifetime")),
    };
    let line = |percent, action: Action| Threshold { percent, action: action as i32 };
    let thresholds = match lines {
        "" => vec![line(80, Action::Notify), line(100, Action::Notify)],
        word if !word.contains('%') => vec![line(80, Action::Notify), line(100, action(word)?)],
        all => {
            let one = |l: &str| {
                let (percent, word) = l.trim().split_once('%').ok_or_else(form)?;
                let percent = percent.parse().ok().filter(|p| (1..=1_000).contains(p)).ok_or_else(form)?;
                Ok::<_, String>(line(percent, action(word)?))
            };
            all.split(',').map(one).collect::<Result<_, _>>()?
        }
    };
    let limit = Some(syp_engine::cost::money(value, &currency.to_uppercase()));
    Ok(Budget { limit, period: period as i32, thresholds, etag: String::new() })
}

fn action(word: &str) -> Result<Action, String> {
    match word {
        "notify" => Ok(Action::Notify),
        "drain" => Ok(Action::Drain),
        "destroy" | "down" => Ok(Action::Destroy),
        other => Err(format!("'{other}': notify, drain or destroy")),
    }
}

/// `/path`.
pub fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && !text.contains(char::is_whitespace) {
        Ok(text.to_owned())
    } else {
        Err("a path begins with / and has no spaces".into())
    }
}

/// `https://app.example.com`, in the form in which browsers send it.
pub fn origin(text: &str) -> Result<String, String> {
    syp_auth::cors::origin(text)
}

/// `.5`, `2`, `500m`.
pub fn cpu(text: &str) -> Result<String, String> {
    let number = text.strip_suffix('m').unwrap_or(text);
    let fine = number.parse::<f64>().is_ok_and(|n| n > 0.0 && n.is_finite())
        && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let whole = !text.ends_with('m') || !number.contains('.');
    if fine && whole { Ok(text.to_owned()) } else { Err("cores, such as 0.5 or 500m".into()) }
}

/// `256Mi`, `1Gi`, `512M`, bytes.
pub fn memory(text: &str) -> Result<String, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let fine = digits.parse::<u64>().is_ok_and(|n| n > 0)
        && matches!(&text[digits.len()..], "" | "Ki" | "Mi" | "Gi" | "K" | "M" | "G");
    if fine { Ok(text.to_owned()) } else { Err("bytes with Ki, Mi or Gi, such as 256Mi".into()) }
}

/// `ADDRESS`, `ADDRESS:PORT` or `[V6]:PORT`.
pub fn publish(text: &str) -> Result<(String, u16), String> {
    if let Ok(a) = text.parse::<std::net::SocketAddr>() {
        return Ok((a.ip().to_string(), a.port()));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>()
        .map(|a| (a.to_string(), 0))
        .map_err(|_| "an IP address of this host, perhaps with a port: 0.0.0.0:8443".into())
}

/// Variables of a file: `NAME=VALUE` a line, `#` begins a comment line.
pub fn env_file(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines =
        text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.trim_start().starts_with('#'));
    lines.map(|(n, l)| variable(l).map_err(|e| format!("{}, line {}: {e}", path.display(), n + 1))).collect()
}

/// A label selector, `a=1` or `a=1,b=2`, as a filter of the API.
pub fn selector(text: &str) -> Result<String, String> {
    let terms: Result<Vec<_>, _> =
        text.split(',').map(|t| key_value(t.trim()).map(|(k, v)| format!("labels.{k}={v}"))).collect();
    terms.map(|t| t.join(" AND ")).map_err(|_| "labels as NAME=VALUE, several with commas".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(
            name("shop").is_ok() && name("shop@0af3").is_ok() && name("projects/p/instances/shop").is_ok()
        );
        for bad in ["", "Shop", "1a", "a_b", "a-", "shop@", "shop@xyz", "a b", &"a".repeat(41)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for bad in ["", "X y", "a/b", "a@1", "--", "A"] {
            assert!(project(bad).is_err(), "{bad}");
        }
        assert!(project("-").is_ok() && project("default").is_ok());
        assert_eq!(full_name("default", "shop"), "projects/default/instances/shop");
        assert_eq!(short_name("projects/p/instances/shop@1"), "shop");
    }

    #[test]
    fn members() {
        assert_eq!(member("a@x.org").unwrap(), "user:a@x.org");
        for good in ["user:a@x.org", "group:ml@x.org", "domain:x.org", "sub:123", "claim:dept=R&D"] {
            assert_eq!(member(good).unwrap(), good);
        }
        for bad in ["alice", "user:", "user:alice", "domain:a@b.c", "claim:x", "team:a", "@", ""] {
            assert!(member(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn claims_have_rules_of_their_own() {
        let r = rules(&["user:a@x".into(), "claim:dept=R&D".into()], Effect::Allow, v1::Role::User, &[]);
        assert_eq!((r.len(), r[0].members.len(), r[1].claims["dept"].as_str()), (2, 1, "R&D"));
    }

    #[test]
    fn quantities() {
        for (good, bad) in [("0.5", "x"), (".5", "-1"), ("500m", "0.5m"), ("2", "0")] {
            assert!(cpu(good).is_ok(), "{good}");
            assert!(cpu(bad).is_err(), "{bad}");
        }
        for (good, bad) in [("256Mi", "256mb"), ("1Gi", "Gi"), ("1000000", "-5Mi")] {
            assert!(memory(good).is_ok(), "{good}");
            assert!(memory(bad).is_err(), "{bad}");
        }
        assert!(duration("8h").is_ok() && duration("soon").is_err() && duration("10").is_err());
        assert_eq!(publish("0.0.0.0:8443").unwrap(), ("0.0.0.0".into(), 8443));
        assert_eq!(publish("127.0.0.1").unwrap().1, 0);
        assert!(publish("example.com").is_err());
        assert_eq!(selector("a=1,b=2").unwrap(), "labels.a=1 AND labels.b=2");
        assert!(selector("a").is_err());
    }

    #[test]
    fn budgets() {
        let b = budget("5EUR/day:drain").unwrap();
        let lines = |b: &Budget| b.thresholds.iter().map(|t| (t.percent, t.action())).collect::<Vec<_>>();
        assert_eq!((b.limit.as_ref().unwrap().units, b.period()), (5, Period::Day));
        assert_eq!(lines(&b), [(80, Action::Notify), (100, Action::Drain)]);
        let b = budget("0.5eur/month:50%notify,120%destroy").unwrap();
        assert_eq!(b.limit.as_ref().unwrap().nanos, 500_000_000);
        assert_eq!(lines(&b), [(50, Action::Notify), (120, Action::Destroy)]);
        for bad in [
            "5",
            "EUR/day",
            "5EUR/year",
            "-5EUR/day",
            "5EUR/day:explode",
            "5EUR/day:x%drain",
            "5/day",
            "0EUR/day",
        ] {
            assert!(budget(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn env_files() {
        let d = tempfile::tempdir().unwrap();
        let f = d.path().join("env");
        std::fs::write(&f, "# c\nA=1\n\nB=x=y\n").unwrap();
        assert_eq!(env_file(&f).unwrap(), [("A".into(), "1".into()), ("B".into(), "x=y".into())]);
        std::fs::write(&f, "A=1\nB\n").unwrap();
        assert!(env_file(&f).unwrap_err().contains("line 2"));
    }
}
