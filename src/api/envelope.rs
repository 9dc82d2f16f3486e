//! The one envelope of every reply.
//!
//! The protocol has three spellings of it: replies of the prose (`request_message_id`), real output of the old
//! service (`reqest_message_id`, a misspelling that clients read), and a request envelope that was re-used by mistake
//! (`message_id`, `message_status`). One type per spelling would mean a choice per endpoint that some client reads
//! wrongly; here every reply carries all keys, which costs forty bytes and satisfies every client.

use poem_openapi::Object;
use poem_openapi::types::{Example, ParseFromJSON, ToJSON};

use crate::desk::Reply;

/// What a reply carries in `return_content`: it can always say why a call was refused.
pub trait Content: ParseFromJSON + ToJSON + Send + Sync + 'static {
    /// A method that answers so.
    const METHOD: &'static str;

    /// The content of a reply that refuses the call with this text.
    fn refused(desc: &str) -> Self;

    /// `taskfilesquery` repeats its content under a second key.
    const REPEATED_AS_PARAMS: bool = false;
}

/// The envelope of every reply.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(rename = "Response", example)]
pub struct Envelope<C: Content + Example> {
    /// The request's `message_id`, as a string. Empty when the request could not be read.
    pub request_message_id: String,
    /// The same, under the spelling that the first service really sent.
    pub reqest_message_id: String,
    /// The same, under the request's own key.
    pub message_id: String,
    /// Always `response`.
    pub message_type: String,
    /// The method that was called.
    pub method_name: String,
    /// `true` or `false`, as a string: the verdict.
    pub return_status: String,
    /// The same as `return_status`.
    pub message_status: String,
    /// The result. Of refused calls it holds at least `desc`.
    pub return_content: C,
    /// `taskfilesquery` only: the same as `return_content`.
    #[oai(skip_serializing_if_is_none)]
    pub method_params: Option<C>,
}

impl<C: Content + Example + Clone> Envelope<C> {
    /// The reply of `method` to the request `id`.
    pub fn new(id: &str, method: &str, ok: bool, content: C) -> Self {
        let status = if ok { "true" } else { "false" };
        Self {
            request_message_id: id.into(),
            reqest_message_id: id.into(),
            message_id: id.into(),
            message_type: "response".into(),
            method_name: method.into(),
            return_status: status.into(),
            message_status: status.into(),
            method_params: C::REPEATED_AS_PARAMS.then(|| content.clone()),
            return_content: content,
        }
    }
}

impl<C: Content + Example + Clone> Example for Envelope<C> {
    fn example() -> Self {
        Self::new("321", C::METHOD, true, C::example())
    }
}

/// The content of `send`, `recv`, `gentask` and `cancel`.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct ReplyContent {
    /// The verdict in words. The texts are fixed; some end in a blank that belongs to them.
    pub desc: String,
}

impl Content for ReplyContent {
    const METHOD: &'static str = "send";

    fn refused(desc: &str) -> Self {
        Self { desc: desc.into() }
    }
}

impl Example for ReplyContent {
    fn example() -> Self {
        Self { desc: "succeeded!".into() }
    }
}

impl From<Reply> for (bool, ReplyContent) {
    fn from(reply: Reply) -> Self {
        (reply.ok, ReplyContent { desc: reply.desc })
    }
}
