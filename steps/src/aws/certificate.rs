//! The certificate that the domain is served with: the one that was named, or one of the region's that is for it.
use super::client::failed;
use aws_sdk_acm::{
    Client,
    types::{CertificateStatus, Filters, KeyAlgorithm},
};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// Pages of certificates that are looked through, a thousand each.
const PAGES: usize = 10;

fn refuse(what: impl Into<String>, next: impl Into<String>) -> Failure {
    failure(Class::Terminal, "CERTIFICATE_UNSUITABLE", what, next)
}

/// Its ARN.
///
/// # Errors
/// `CERTIFICATE_UNSUITABLE`, or AWS'.
pub async fn find(c: &Client, region: &str, named: &str, domain: &str) -> Result<String, Failure> {
    if named.is_empty() {
        return issued(c, region, domain).await;
    }
    let said = c.describe_certificate().certificate_arn(named).send().await;
    let said = match said {
        Ok(said) => said,
        Err(e)
            if e.as_service_error()
                .is_some_and(|e| e.is_resource_not_found_exception() || e.is_invalid_arn_exception()) =>
        {
            return Err(refuse(
                format!("there is no certificate '{named}' in {region}"),
                format!(
                    "'aws acm list-certificates --region {region}' shows which there are; a load balancer takes those of its own region"
                ),
            ));
        }
        Err(e) => return Err(failed("acm:DescribeCertificate", &e)),
    };
    let Some(d) = said.certificate() else {
        return Err(refuse(format!("AWS says nothing of '{named}'"), "try again"));
    };
    if d.status() != Some(&CertificateStatus::Issued) {
        let status = d.status().map_or("unknown", CertificateStatus::as_str);
        return Err(refuse(
            format!("the certificate is {status}, not ISSUED"),
            "finish its validation in the ACM console (a DNS record, usually), or name another",
        ));
    }
    let names = d.subject_alternative_names();
    if !names.iter().map(String::as_str).chain(d.domain_name()).any(|n| covers(n, domain)) {
        return Err(refuse(
            format!("the certificate is for {}, not for {domain}", names.join(", ")),
            "name a certificate for that domain, or another domain with --domain",
        ));
    }
    Ok(named.to_owned())
}

/// Of those that are there.
async fn issued(c: &Client, region: &str, domain: &str) -> Result<String, Failure> {
    let mut page = None;
    // without being asked for, AWS lists those with RSA keys of 2048 bits alone
    let keys = [
        KeyAlgorithm::Rsa2048,
        KeyAlgorithm::Rsa3072,
        KeyAlgorithm::Rsa4096,
        KeyAlgorithm::EcPrime256v1,
        KeyAlgorithm::EcSecp384r1,
    ];
    for _ in 0..PAGES {
        let ask = c.list_certificates().certificate_statuses(CertificateStatus::Issued).set_next_token(page);
        let ask = ask.includes(Filters::builder().set_key_types(Some(keys.to_vec())).build());
        let said = ask.send().await.map_err(|e| failed("acm:ListCertificates", &e))?;
        let of_it = said.certificate_summary_list().iter().find(|s| {
            let names = s.subject_alternative_name_summaries().iter().map(String::as_str);
            names.chain(s.domain_name()).any(|n| covers(n, domain))
        });
        if let Some(arn) = of_it.and_then(|s| s.certificate_arn()) {
            return Ok(arn.to_owned());
        }
        page = said.next_token().map(str::to_owned);
        if page.is_none() {
            break;
        }
    }
    Err(refuse(
        format!("no certificate of {region} that is issued is for {domain}"),
        format!(
            "'aws acm request-certificate --region {region} --domain-name {domain} --validation-method DNS' asks for one; or name one with --certificate"
        ),
    ))
}

/// A wildcard stands for one label (RFC 6125). Pure.
fn covers(name: &str, domain: &str) -> bool {
    let (name, domain) = (name.to_ascii_lowercase(), domain.to_ascii_lowercase());
    name == domain
        || name
            .strip_prefix("*.")
            .is_some_and(|rest| domain.split_once('.').is_some_and(|(_, of)| of == rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(covers("shop.example.com", "Shop.example.com"));
        assert!(covers("*.example.com", "shop.example.com"));
        for (name, domain) in [
            ("*.example.com", "a.shop.example.com"),
            ("*.example.com", "example.com"),
            ("example.com", "shop.example.com"),
            ("shop.example.com", "shop.example.com.evil"),
        ] {
            assert!(!covers(name, domain), "{name} {domain}");
        }
    }
}
