//! `tidegate explain`: explains what a policy does with one request.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use tidegate::explain::explain;
use tidegate::policy::Policy;
use tidegate::request::{Locality, RequestFacts};

use crate::check;

/// Show which limits apply to a request, which keys it charges and which quotas it has
///
/// The options describe the request; nothing is sent anywhere. The exit status is 1 if the policy is wrong, 2 if it
/// cannot be read.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The policy document; `-` is the standard input
    file: PathBuf,

    /// The request's method
    #[arg(long, default_value = "GET")]
    method: String,

    /// The request's path, with its query if it has one
    #[arg(long, default_value = "/")]
    path: String,

    /// The request's host
    #[arg(long, default_value = "")]
    host: String,

    /// The address of the connection, with or without a port
    #[arg(long, value_parser = address)]
    address: Option<String>,

    /// The client's country, two letters, if the host would know it
    #[arg(long)]
    country: Option<String>,

    /// The client's region within its country, as in 'US-TX', if the host would know it
    #[arg(long)]
    region: Option<String>,

    /// The location that received the request, as in 'HEL', if the host would know it
    #[arg(long)]
    colo: Option<String>,

    /// A request header, as in 'x-plan: free'; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<Header>,
}

/// A header's name in lower case, and its value.
#[derive(Clone, Debug)]
struct Header {
    name: String,
    value: String,
}

impl Explain {
    /// Prints the explanation, or the errors of the policy.
    pub fn run(self) -> ExitCode {
        let name = check::name(&self.file);
        let bytes = match check::read(&self.file) {
            Ok(bytes) => bytes,
            Err(error) => {
                // If standard error cannot be written either, the exit status still tells.
                let _ = writeln!(io::stderr(), "tidegate: cannot read {name}: {error}");
                return ExitCode::from(2);
            }
        };
        let (status, words) = match String::from_utf8(bytes) {
            Err(error) => (1, check::not_utf8(&name, &error)),
            Ok(text) if text.starts_with(check::BYTE_ORDER_MARK) => (1, check::marked(&name)),
            Ok(text) => match Policy::parse(&text) {
                Ok(policy) => (0, explain(&policy, &self)),
                Err(errors) => (1, check::listing(&name, &text, &errors).unwrap_or_default()),
            },
        };
        let _ = io::stdout().write_all(words.as_bytes());
        ExitCode::from(status)
    }
}

impl RequestFacts for Explain {
    fn method(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.method.as_bytes())
    }

    fn path(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.path.as_bytes())
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.host.as_bytes())
    }

    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        self.address.as_ref().map(|address| Cow::Borrowed(address.as_bytes()))
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let values = self.headers.iter().filter(|header| header.name == name).map(|header| header.value.as_str());
        let values: Vec<&str> = values.collect();
        (!values.is_empty()).then(|| Cow::Owned(values.join(",").into_bytes()))
    }

    fn locality(&self, kind: Locality) -> Option<Cow<'_, [u8]>> {
        let place = match kind {
            Locality::Country => &self.country,
            Locality::Region => &self.region,
            Locality::Colo => &self.colo,
        };
        place.as_ref().map(|place| Cow::Borrowed(place.as_bytes()))
    }
}

fn address(text: &str) -> Result<String, &'static str> {
    let is_address = text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok();
    if is_address { Ok(text.to_owned()) } else { Err("write an IP address, as in 192.0.2.7 or 2001:db8::1") }
}

fn header(text: &str) -> Result<Header, String> {
    let (name, value) = text.split_once(':').ok_or("write a name, a colon and a value, as in 'x-plan: free'")?;
    Ok(Header { name: name.trim().to_ascii_lowercase(), value: value.trim().to_owned() })
}
