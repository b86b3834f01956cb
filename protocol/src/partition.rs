//! Amazon's partitions: below which domain the services of a region are (`partitions.json` of the
//! AWS SDKs).

/// The partition of all regions that none of [`DOMAINS`] is for, GovCloud among them.
const DEFAULT: &str = "amazonaws.com";

/// What the names of a partition's regions begin with, and its domain.
const DOMAINS: [(&str, &str); 6] = [
    ("cn-", "amazonaws.com.cn"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("eusc-", "amazonaws.eu"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
];

/// The domain of the services of a region: `amazonaws.com` for `eu-north-1`.
pub fn domain(region: &str) -> &'static str {
    let found = DOMAINS.into_iter().find(|(prefix, _)| region.starts_with(prefix));
    found.map_or(DEFAULT, |(_, domain)| domain)
}

/// Whether a partition has its services below this domain.
pub fn is_domain(domain: &str) -> bool {
    domain == DEFAULT || DOMAINS.into_iter().any(|(_, known)| known == domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_of_regions() {
        for (region, expected) in [
            ("eu-north-1", "amazonaws.com"),
            ("us-gov-west-1", "amazonaws.com"),
            ("us-isolated-1", "amazonaws.com"),
            ("", "amazonaws.com"),
            ("cn-north-1", "amazonaws.com.cn"),
            ("eusc-de-east-1", "amazonaws.eu"),
            ("us-iso-east-1", "c2s.ic.gov"),
            ("us-isob-east-1", "sc2s.sgov.gov"),
            ("eu-isoe-west-1", "cloud.adc-e.uk"),
            ("us-isof-south-1", "csp.hci.ic.gov"),
        ] {
            assert_eq!(domain(region), expected, "{region}");
            assert!(is_domain(expected));
        }
        assert!(!is_domain("") && !is_domain("example.com") && !is_domain("ic.gov"));
    }
}
