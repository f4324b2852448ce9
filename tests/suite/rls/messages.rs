//! The messages, compared with types generated from the published API definition.

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::Duration;
use proptest::prelude::*;
use prost::Message;
use tidegate::store::rls::{self, Answer, Descriptor, RlsError, Status, answer};
use tidegate::units::{Permits, Span};

use super::service::{entries, header};

fn status() -> impl Strategy<Value = DescriptorStatus> {
    (0..4, any::<u32>(), "[a-z]{0,9}", prop::option::of((0..1_000_000_i64, 0..1_000_000_000))).prop_map(
        |(code, remaining, name, reset)| DescriptorStatus {
            code,
            current_limit: Some(RateLimit { name, requests_per_unit: remaining, unit: 0 }),
            limit_remaining: remaining,
            duration_until_reset: reset.map(|(seconds, nanos)| Duration { seconds, nanos }),
            ..DescriptorStatus::default()
        },
    )
}

fn response() -> impl Strategy<Value = RateLimitResponse> {
    let headers = || prop::collection::vec(("x-[a-z]{1,9}", "[ -~é]{0,20}"), 0..4);
    let parts = (1..3, prop::collection::vec(status(), 0..5), headers(), headers(), any::<Vec<u8>>());
    parts.prop_map(|(code, statuses, response, request, raw_body)| RateLimitResponse {
        overall_code: code,
        statuses,
        response_headers_to_add: response.iter().map(|(name, value)| header(name, value)).collect(),
        request_headers_to_add: request.iter().map(|(name, value)| header(name, value)).collect(),
        raw_body,
        ..RateLimitResponse::default()
    })
}

/// What the codec must read from it.
fn expected(of: &RateLimitResponse) -> Answer {
    let headers = |headers: &[envoy_types::pb::envoy::config::core::v3::HeaderValue]| {
        let header = |it: &envoy_types::pb::envoy::config::core::v3::HeaderValue| rls::Header {
            name: it.key.clone(),
            value: it.value.clone().into_bytes(),
        };
        headers.iter().map(header).collect()
    };
    let status = |it: &DescriptorStatus| Status {
        code: match it.code {
            1 => rls::Code::Within,
            2 => rls::Code::Over,
            _ => rls::Code::Unknown,
        },
        reset_after: it
            .duration_until_reset
            .map(|it| Span::from_nanos(it.seconds.unsigned_abs() * 1_000_000_000 + u64::from(it.nanos.unsigned_abs()))),
    };
    Answer {
        over: of.overall_code == Code::OverLimit as i32,
        statuses: of.statuses.iter().map(status).collect(),
        response_headers: headers(&of.response_headers_to_add),
        request_headers: headers(&of.request_headers_to_add),
        body: of.raw_body.clone(),
    }
}

proptest! {
    #[test]
    fn every_answer_is_read_as_it_was_meant(of in response()) {
        prop_assert_eq!(answer(&of.encode_to_vec()), Ok(expected(&of)));
    }

    #[test]
    fn any_bytes_of_a_service_are_handled(
        of in response(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index, any in any::<Vec<u8>>()
    ) {
        let mut bytes = of.encode_to_vec();
        *at.get_mut(&mut bytes) = byte;
        bytes.truncate(cut.index(bytes.len() + 1));
        for bytes in [bytes, any] {
            match answer(&bytes) {
                Ok(read) => prop_assert!(read.statuses.len() + read.body.len() <= bytes.len()),
                Err(error) => prop_assert!(matches!(error, RlsError::Malformed | RlsError::Undecided | RlsError::TooLarge)),
            }
        }
    }

    #[test]
    fn every_request_is_read_by_a_service_as_it_was_meant(
        domain in "[a-z]{1,9}", of in prop::collection::vec((1..1_000_u32, prop::collection::vec(("[a-z:-]{1,9}", "[ -~é]{0,20}"), 0..4)), 0..5)
    ) {
        let descriptors: Vec<_> = of.iter().map(|(cost, pairs)| {
            let mut descriptor = Descriptor::new(Permits::new(*cost));
            pairs.iter().for_each(|(key, value)| descriptor.push(key, value.as_bytes()));
            descriptor
        }).collect();
        let read = RateLimitRequest::decode(&*rls::request(&domain, &descriptors)).unwrap();
        prop_assert_eq!(&read.domain, &domain);
        prop_assert_eq!(read.descriptors.len(), of.len());
        for (descriptor, (cost, pairs)) in read.descriptors.iter().zip(&of) {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            prop_assert_eq!(entries(descriptor), pairs);
            let own = descriptor.hits_addend.map(|hits| hits.value);
            prop_assert_eq!(own.unwrap_or(read.hits_addend.into()), u64::from(*cost));
        }
    }
}

#[test]
fn cluster_is_named_as_envoy_reads_it() {
    use envoy_types::pb::envoy::config::core::v3::grpc_service::TargetSpecifier;
    let service = envoy_types::pb::envoy::config::core::v3::GrpcService::decode(&*rls::envoy_service("rate")).unwrap();
    let Some(TargetSpecifier::EnvoyGrpc(envoy)) = service.target_specifier else { panic!("{service:?}") };
    assert_eq!(envoy.cluster_name, "rate");
}
