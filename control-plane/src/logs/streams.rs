//! Log streams.

use protocol::aws_json::ApiError;
use protocol::logs::{
    CreateLogStreamRequest, DeleteLogStreamRequest, DescribeLogStreamsRequest,
    DescribeLogStreamsResponse, LogStream,
};

use super::groups::Empty;
use super::store::{Missing, Stream};
use super::{Caller, bounded, invalid, no_group, no_stream};

fn stream_name(name: Option<String>) -> Result<String, ApiError> {
    name.ok_or_else(|| invalid("logStreamName must be given"))
}

pub(super) fn missing(what: Missing) -> ApiError {
    match what {
        Missing::Group => no_group(),
        Missing::Stream => no_stream(),
    }
}

pub(super) async fn create(
    caller: Caller<'_>,
    input: CreateLogStreamRequest,
) -> Result<Empty, ApiError> {
    let group = caller.group_name(input.log_group_name, None)?;
    let name = stream_name(input.log_stream_name)?;
    if !(1..=512).contains(&name.len()) || name.contains([':', '*']) {
        return Err(invalid(format!(
            "1 validation error detected: Value '{name}' at 'logStreamName' failed to satisfy \
             constraint: Member must satisfy regular expression pattern: [^:*]* (1 to 512 characters)"
        )));
    }
    match caller.logs.create_stream(caller.region(), &group, &name, caller.now()).await? {
        Ok(true) => Ok(Empty {}),
        Ok(false) => Err(ApiError::client(
            "ResourceAlreadyExistsException",
            "The specified log stream already exists",
        )),
        Err(what) => Err(missing(what)),
    }
}

pub(super) async fn delete(
    caller: Caller<'_>,
    input: DeleteLogStreamRequest,
) -> Result<Empty, ApiError> {
    let group = caller.group_name(input.log_group_name, None)?;
    let name = stream_name(input.log_stream_name)?;
    let deleted = caller.logs.delete_stream(caller.region(), &group, &name).await?;
    deleted.map(|()| Empty {}).map_err(missing)
}

pub(super) async fn describe(
    caller: Caller<'_>,
    input: DescribeLogStreamsRequest,
) -> Result<DescribeLogStreamsResponse, ApiError> {
    let limit = bounded("limit", input.limit, 50, 50)?;
    let name = caller.group_name(input.log_group_name, input.log_group_identifier)?;
    let prefix = input.log_stream_name_prefix.unwrap_or_default();
    let by_time = match input.order_by.as_deref() {
        None | Some("LogStreamName") => false,
        Some("LastEventTime") if prefix.is_empty() => true,
        Some("LastEventTime") => {
            return Err(invalid("Cannot order by LastEventTime with a logStreamNamePrefix."));
        }
        Some(other) => return Err(invalid(format!("orderBy {other:?} is not known"))),
    };
    let group = caller.logs.group(caller.region(), &name).await?.ok_or_else(no_group)?;
    let streams = caller.logs.streams(group.id, &prefix).await?;
    let mut keyed: Vec<(String, Stream)> = streams
        .into_iter()
        .map(|stream| {
            let time = stream.last_event.unwrap_or(stream.created).max(0);
            let key =
                if by_time { format!("{time:020} {}", stream.name) } else { stream.name.clone() };
            (key, stream)
        })
        .collect();
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    let descending = input.descending.unwrap_or(false);
    if descending {
        keyed.reverse();
    }
    // A token holds the last key, so it keeps working while streams come and go.
    let token = input.next_token.as_deref().map(parse_token).transpose()?;
    let is_done = |key: &str| {
        token.as_deref().is_some_and(|last| if descending { key >= last } else { key <= last })
    };
    let begin = keyed.partition_point(|(key, _)| is_done(key));
    let end = begin.saturating_add(limit).min(keyed.len());
    let last = keyed.get(end.wrapping_sub(1)).filter(|_| end < keyed.len());
    let next_token = last.map(|(key, _)| hex::encode(key));
    let arn = caller.group_arn(&name);
    let page = keyed.into_iter().take(end).skip(begin);
    let log_streams = page.map(|(_, stream)| show(&arn, stream)).collect();
    Ok(DescribeLogStreamsResponse { log_streams, next_token })
}

fn parse_token(token: &str) -> Result<String, ApiError> {
    let key = hex::decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    key.ok_or_else(|| invalid("The specified nextToken is invalid."))
}

fn show(group: &str, stream: Stream) -> LogStream {
    LogStream {
        arn: Some(format!("{group}:log-stream:{}", stream.name)),
        log_stream_name: Some(stream.name),
        creation_time: Some(stream.created),
        first_event_timestamp: stream.first_event,
        last_event_timestamp: stream.last_event,
        last_ingestion_time: stream.last_ingestion,
        upload_sequence_token: Some(stream.id.to_string()),
        stored_bytes: Some(i64::try_from(stream.bytes).unwrap_or(i64::MAX)),
    }
}
