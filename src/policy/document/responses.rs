//! How routes serve responses: kept and static responses, caching, image variants, preload.

use crate::policy::KeyPart;
use crate::policy::access::HeaderValue;
use crate::policy::defaults::NO_FIELDS;
use crate::policy::schema::{document, words};
use crate::policy::serving::text::{ImageFormat, LinkTarget, Rewrite, Version};
use crate::policy::shapes::{Int, Map, Set, SpanIn};
use crate::policy::text::{Body, ContentType, HeaderName};

document! {
    /// The memory for kept responses.
    Kept {
        /// The largest response that is kept, in bytes, including its header.
        max_object: Int<1_024, 1_048_576> = 65_536,
        /// The memory for all kept responses of an instance, in bytes: at least 32 times `max_object`. The index takes
        /// another 300 KB at most.
        max_bytes: Int<32_768, 1_073_741_824> = 16_777_216,
    }
}

document! {
    /// A response that needs no upstream.
    Static {
        /// Its status.
        status: Int<200, 599>,
        /// Its content type.
        content_type: ContentType = "text/plain; charset=utf-8",
        /// Its other headers.
        headers: Map<HeaderName, HeaderValue, 32> = NO_FIELDS,
        /// Its body.
        body: Body = "",
    }
}

document! {
    /// What responses tell caches, and what distinguishes kept responses.
    Cache {
        /// How long responses are fresh to browsers and caches, as `max-age` in `Cache-Control`. When absent, the
        /// upstream's own. An upstream's `no-store`, `private` and `no-cache` stay as they are.
        ttl: Option<SpanIn<1_000, YEAR_MS>>,
        /// For how long after that a cache may serve the response while it fetches a new one.
        stale_while_revalidate: Option<SpanIn<1_000, YEAR_MS>>,
        /// Whether the response at one address never changes, in which case browsers need not ask again.
        immutable: bool = false,
        /// The request headers by which kept responses may vary. A response whose `Vary` names another is not kept.
        vary: Set<HeaderName, 0, 8> = ["accept-encoding"],
        /// A part of the key of kept responses: a new version drops all responses kept for the route.
        version: Option<Version>,
    }
}

document! {
    /// Images in the format and width that the client needs.
    Variants {
        /// Formats in the order of preference, without `image/`. A request gets the one that its `Accept` names with
        /// the largest weight.
        formats: Set<ImageFormat, 0, 8> = [],
        /// The format for clients that accept none of `formats` by name. When absent, they get the original image.
        otherwise: Option<ImageFormat>,
        /// Widths in pixels. A request gets the smallest that is not less than the width it asks for, and the largest
        /// when it asks for none.
        widths: Set<Int<1, 16_384>, 0, 32> = [],
        /// Where a request may ask for a width: `query:NAME`, or `header:sec-ch-width`. The first that has a width
        /// counts.
        width_from: Set<KeyPart, 0, 4> = ["query:w", "header:sec-ch-width"],
        /// The file extensions of images, in upper or lower case.
        extensions: Set<ImageFormat, 1, 16> = ["jpg", "jpeg", "png"],
        /// The path that the upstream is asked for, in the syntax of the CDN: `{format}`, `{width}` and `{path}` are
        /// replaced. The rest of the query, apart from the width, stays.
        rewrite: Rewrite,
        /// Whether a Worker asks for variants by `cf.image` in place of `rewrite`, if the zone has image
        /// transformations. A Worker cannot fetch `/cdn-cgi/image/` itself.
        cf_image: bool = false,
    }
}

document! {
    /// An asset that pages will need.
    Preload {
        /// Its path or URL.
        path: LinkTarget,
        /// Its kind.
        kind as "as": PreloadAs,
        /// Whether it is fetched as if from another origin (CORS). A font always is.
        crossorigin: bool = false,
    }
}

/// The kind of a preloaded asset.
#[derive(Clone, Copy)]
pub(in crate::policy) struct PreloadAs(pub(in crate::policy) &'static str);

words! {
    PreloadAs {
        "style" => PreloadAs("style"),
        "script" => PreloadAs("script"),
        "font" => PreloadAs("font"),
        "image" => PreloadAs("image"),
        "fetch" => PreloadAs("fetch"),
    }
}

/// The longest freshness in common use.
const YEAR_MS: u64 = 365 * 24 * 3_600_000;
