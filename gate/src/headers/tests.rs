//! The rules of `headers`.

use super::strip::is_ours;
use super::{bearer, detach, strip};
use http::{HeaderMap, HeaderName, HeaderValue};

#[test]
fn identity_headers_are_ours_in_every_spelling() {
    for name in [
        "x-syp-user",
        "x_syp_user",
        "x-forwarded-user",
        "x_forwarded_user",
        "x-forwarded_for",
        "x-auth-request-email",
        "remote-user",
        "remote_user",
        "x-real-ip",
        "forwarded",
        "x-request-id",
        "x.forwarded.user",
        "x-original-url",
        "cf-access-jwt-assertion",
        "x-syp-a-very-long-name-that-does-not-fit-into-forty-bytes",
        "proxy",
    ] {
        assert!(is_ours(name, false), "{name}");
    }
    for name in [
        "accept",
        "content-type",
        "x-custom",
        "cookie",
        "range",
        "x-api-key",
        "traceparent",
        "x-http-method-override",
    ] {
        assert!(!is_ours(name, false), "{name}");
    }
    assert!(is_ours("x-http-method-override", true) && is_ours("x_http_method_override", true));
}

#[test]
fn only_one_bearer_token_counts() {
    let map = |values: &[&'static str]| {
        let mut map = HeaderMap::new();
        for v in values {
            map.append("authorization", HeaderValue::from_static(v));
        }
        map
    };
    assert_eq!(bearer(&map(&["Bearer abc"])), Some("abc"));
    assert_eq!(bearer(&map(&["bearer  abc "])), Some("abc"));
    for wrong in [
        &["Basic abc"][..],
        &["Bearer"],
        &["Bearer "],
        &["Bearer a b"],
        &["Bearer a,b"],
        &["Bearer a", "Bearer a"],
        &[],
    ] {
        assert_eq!(bearer(&map(wrong)), None, "{wrong:?}");
    }
}

#[test]
fn connection_cannot_remove_framing_but_removes_what_it_names() {
    let mut map = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, x-private, host, content-length"),
        ("host", "a"),
        ("content-length", "3"),
        ("x-private", "1"),
        ("te", "gzip, trailers"),
        ("authorization", "Bearer x"),
        ("cookie", "a=1; __Host-syp=secret; b=2"),
        ("keep-alive", "5"),
    ] {
        map.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
    }
    strip(&mut map, false, false);
    let mut left: Vec<_> = map.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
    left.sort();
    assert_eq!(left, ["content-length=3", "cookie=a=1; b=2", "host=a", "te=trailers"]);
}

#[test]
fn a_detached_head_is_the_same_in_other_memory() {
    let read = bytes::Bytes::from_static(b"/a?b=c the value with \xe9 and the other");
    let value = |range| HeaderValue::from_maybe_shared(read.slice(range)).unwrap();
    let uri = http::Uri::from_maybe_shared(read.slice(..6)).unwrap();
    let mut request = http::Request::get(uri).body(()).unwrap();
    for (name, value) in [("x-own", value(7..23)), ("accept", value(29..37)), ("x-own", value(28..28))] {
        request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value);
    }
    let before = (request.uri().clone(), request.headers().clone());
    detach(&mut request);
    assert_eq!((request.uri(), request.headers()), (&before.0, &before.1));
    let order = |map: &HeaderMap| map.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Vec<_>>();
    assert_eq!(order(request.headers()), order(&before.1));
    let memory = read.as_ptr_range();
    assert!(request.headers().values().all(|v| !memory.contains(&v.as_bytes().as_ptr())));
    assert!(!memory.contains(&request.uri().path().as_ptr()));
}
