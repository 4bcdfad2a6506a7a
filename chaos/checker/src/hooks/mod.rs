//! Webhooks as providers send them: at their own pace whatever the node does, signed anew for each attempt, and again
//! until they are accepted. [`sender`] sends and writes down what it is told, [`judge`] compares that with what came
//! out of the topics.

pub mod event;
pub mod flood;
pub mod judge;
pub mod patron;
pub mod sender;
pub mod stored;
