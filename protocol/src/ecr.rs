//! Hosts of Amazon ECR's private registries: whose they are, and where the API is that gives
//! logins for them.
//!
//! ```text
//! <account>.dkr.ecr[-fips].<region>.<domain of the partition, see partition.rs>
//! <account>.dkr-ecr[-fips].<region>.on.<aws | amazonwebservices.com.cn | amazonwebservices.eu>
//! ```
//! The second form is reached by IPv6, too.
//!
//! The public gallery (`public.ecr.aws`, `ecr-public.aws.com`) is none of them: as by Amazon's agent
//! it is asked anonymously, and who wants its larger allowance for those who are logged in names
//! `docker-credential-ecr-login` or a login in Docker's configuration.

use crate::partition;

/// A host's domain where IPv6 reaches it, and that of the API's hosts in the same partition.
const DUAL_STACK: [(&str, &str); 3] = [
    ("on.amazonwebservices.com.cn", "api.amazonwebservices.com.cn"),
    ("on.amazonwebservices.eu", "api.amazonwebservices.eu"),
    ("on.aws", "api.aws"),
];

/// A private registry of Amazon ECR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registry<'a> {
    /// Twelve digits: the registry's id.
    pub account: &'a str,
    pub region: &'a str,
    pub fips: bool,
    dual_stack: bool,
    /// The domain of the API's hosts.
    api: &'a str,
}

impl<'a> Registry<'a> {
    /// The registry of this host name. `None`: it is not Amazon ECR's.
    pub fn of_host(host: &'a str) -> Option<Self> {
        let (account, rest) = host.split_once('.')?;
        if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (service, dual_stack) = match rest.strip_prefix("dkr.") {
            Some(rest) => (rest, false),
            None => (rest.strip_prefix("dkr-")?, true),
        };
        let (service, rest) = service.split_once('.')?;
        let fips = match service {
            "ecr" => false,
            "ecr-fips" => true,
            _ => return None,
        };
        let (region, domain) = rest.split_once('.')?;
        if !is_region(region) {
            return None;
        }
        let api = match dual_stack {
            true => DUAL_STACK.into_iter().find(|(known, _)| *known == domain)?.1,
            false => Some(domain).filter(|domain| partition::is_domain(domain))?,
        };
        Some(Self { account, region, fips, dual_stack, api })
    }

    /// The registry that an image's name stands for. `None`: it is not Amazon ECR's.
    pub fn of_image(image: &'a str) -> Option<Self> {
        Self::of_host(image.split_once('/')?.0)
    }

    /// The host of the API that gives logins.
    pub fn api_host(&self) -> String {
        let Self { region, api, .. } = self;
        match (self.fips, self.dual_stack) {
            (true, _) => format!("ecr-fips.{region}.{api}"),
            (false, true) => format!("ecr.{region}.{api}"),
            (false, false) => format!("api.ecr.{region}.{api}"),
        }
    }

    /// Whether the API is another than the region's usual one.
    pub fn has_own_api(&self) -> bool {
        self.fips || self.dual_stack
    }
}

/// Words and a number, as in `us-gov-west-1`: other labels below Amazon's domains, such as those of
/// buckets (`s3`, `s3-us-west-2`), are anybody's.
fn is_region(label: &str) -> bool {
    let Some((words, number)) = label.rsplit_once('-') else { return false };
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    words.contains('-')
        && words.split('-').all(is_word)
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_their_apis() {
        for (host, region, api) in [
            (
                "123456789012.dkr.ecr.eu-north-1.amazonaws.com",
                "eu-north-1",
                "api.ecr.eu-north-1.amazonaws.com",
            ),
            (
                "123456789012.dkr.ecr.us-gov-east-1.amazonaws.com",
                "us-gov-east-1",
                "api.ecr.us-gov-east-1.amazonaws.com",
            ),
            (
                "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
                "cn-north-1",
                "api.ecr.cn-north-1.amazonaws.com.cn",
            ),
            (
                "123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov",
                "us-iso-east-1",
                "api.ecr.us-iso-east-1.c2s.ic.gov",
            ),
            (
                "123456789012.dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
                "us-isob-east-1",
                "api.ecr.us-isob-east-1.sc2s.sgov.gov",
            ),
            (
                "123456789012.dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk",
                "eu-isoe-west-1",
                "api.ecr.eu-isoe-west-1.cloud.adc-e.uk",
            ),
            (
                "123456789012.dkr.ecr.us-isof-south-1.csp.hci.ic.gov",
                "us-isof-south-1",
                "api.ecr.us-isof-south-1.csp.hci.ic.gov",
            ),
            (
                "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
                "eusc-de-east-1",
                "api.ecr.eusc-de-east-1.amazonaws.eu",
            ),
            (
                "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com",
                "us-east-1",
                "ecr-fips.us-east-1.amazonaws.com",
            ),
            (
                "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
                "us-gov-west-1",
                "ecr-fips.us-gov-west-1.amazonaws.com",
            ),
            ("123456789012.dkr-ecr.us-east-1.on.aws", "us-east-1", "ecr.us-east-1.api.aws"),
            (
                "123456789012.dkr-ecr-fips.us-gov-west-1.on.aws",
                "us-gov-west-1",
                "ecr-fips.us-gov-west-1.api.aws",
            ),
            (
                "123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
                "cn-north-1",
                "ecr.cn-north-1.api.amazonwebservices.com.cn",
            ),
            (
                "123456789012.dkr-ecr.eusc-de-east-1.on.amazonwebservices.eu",
                "eusc-de-east-1",
                "ecr.eusc-de-east-1.api.amazonwebservices.eu",
            ),
        ] {
            let found = Registry::of_host(host);
            let found = found.map(|found| (found.account, found.region, found.api_host()));
            assert_eq!(found, Some(("123456789012", region, api.to_owned())), "{host}");
        }
    }

    #[test]
    fn other_hosts() {
        for host in [
            "docker.io",
            "public.ecr.aws",
            "ecr-public.aws.com",
            "12345678901.dkr.ecr.us-east-1.amazonaws.com",
            "1234567890123.dkr.ecr.us-east-1.amazonaws.com",
            "12345678901a.dkr.ecr.us-east-1.amazonaws.com",
            "123456789012.dkr.ecr.us-east-1.amazonaws.com.evil.example",
            "123456789012.dkr.ecr.us-east-1.amazonaws.com:443",
            "123456789012.dkr.ecr.evil.example/x.amazonaws.com",
            "123456789012.dkr.ecr..amazonaws.com",
            // Buckets that anybody may have made.
            "123456789012.dkr.ecr-fips.s3.amazonaws.com",
            "123456789012.dkr.ecr-fips.s3-us-west-2.amazonaws.com",
            "123456789012.dkr.ecr.us-east-1.ic.gov",
            "123456789012.dkr.ecr.us-east-1.api.aws",
            "123456789012.dkr.ecr.us-east-1.on.aws",
            "123456789012.dkr-ecr.us-east-1.amazonaws.com",
            "123456789012.dkr.ecrx.us-east-1.amazonaws.com",
            "123456789012.dkr.ecr.us-east-1.amazonaws",
        ] {
            assert_eq!(Registry::of_host(host), None, "{host}");
        }
        assert_eq!(Registry::of_image("nginx"), None);
        let image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team/web:1";
        assert_eq!(Registry::of_image(image).map(|found| found.region), Some("us-east-1"));
    }
}
