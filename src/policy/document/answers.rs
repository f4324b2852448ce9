//! What routes say of their answers.

use crate::policy::KeyPart;
use crate::policy::absent::NO_FIELDS;
use crate::policy::access::HeaderValue;
use crate::policy::schema::{document, words};
use crate::policy::serving::text::{ImageFormat, LinkTarget, Rewrite, Version};
use crate::policy::shapes::{Int, Map, Set, SpanIn};
use crate::policy::text::{Body, ContentType, HeaderName};

document! {
    /// How much room kept responses get.
    Kept {
        /// The largest response that is kept, in bytes, its header included.
        max_object: Int<1_024, 1_048_576> = 65_536,
        /// The room of all kept responses of an instance, in bytes: at least 32 times `max_object`. The index takes
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
        /// Other headers that it has.
        headers: Map<HeaderName, HeaderValue, 32> = NO_FIELDS,
        /// Its body.
        body: Body = "",
    }
}

document! {
    /// What responses tell caches, and how kept responses are told apart.
    Cache {
        /// For how long answers are fresh to browsers and caches, as `max-age` in `Cache-Control`. What the upstream says
        /// when absent. An upstream's `no-store`, `private` and `no-cache` stay as they are.
        ttl: Option<SpanIn<1_000, YEAR_MS>>,
        /// For how long after that a cache may serve the answer while it fetches a new one.
        stale_while_revalidate: Option<SpanIn<1_000, YEAR_MS>>,
        /// Whether an answer at one address never changes, so that browsers need not ask again.
        immutable: bool = false,
        /// The request headers by which kept answers may vary. An answer whose `Vary` names another is not kept.
        vary: Set<HeaderName, 0, 8> = ["accept-encoding"],
        /// A part of what kept answers are known by: a new version drops all that were kept for the route.
        version: Option<Version>,
    }
}

document! {
    /// Images in the format and the width that the client needs.
    Variants {
        /// Formats in the order of preference, without `image/`. A request gets the one that its `Accept` names with the
        /// largest weight.
        formats: Set<ImageFormat, 0, 8> = [],
        /// The format for clients that accept none of these by name. They get the image itself when absent.
        otherwise: Option<ImageFormat>,
        /// Widths in pixels. A request gets the least that is not less than what it asks for, and the largest when it asks
        /// for none.
        widths: Set<Int<1, 16_384>, 0, 32> = [],
        /// Where a request asks for a width, the first that does: `query:NAME`, or `header:sec-ch-width`.
        width_from: Set<KeyPart, 0, 4> = ["query:w", "header:sec-ch-width"],
        /// The endings of paths that are images, in any case.
        extensions: Set<ImageFormat, 1, 16> = ["jpg", "jpeg", "png"],
        /// What the upstream is asked for, in the words of the CDN: `{format}`, `{width}` and `{path}` are put in. What the
        /// query has besides the width stays.
        rewrite: Rewrite,
        /// Whether a Worker asks for variants by `cf.image` in place of `rewrite`: where the zone has image transformations. No
        /// Worker can ask for `/cdn-cgi/image/` itself.
        cf_image: bool = false,
    }
}

document! {
    /// What a page will need.
    Preload {
        /// Where it is.
        path: LinkTarget,
        /// What it is.
        kind as "as": PreloadAs,
        /// Whether it is fetched as from another origin. A font always is.
        crossorigin: bool = false,
    }
}

/// What a preloaded asset is.
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

/// As long as anybody lets an answer be fresh.
const YEAR_MS: u64 = 365 * 24 * 3_600_000;
