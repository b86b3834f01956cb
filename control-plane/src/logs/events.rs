//! Log events: PutLogEvents, GetLogEvents, FilterLogEvents.

use std::collections::BTreeMap;

use protocol::aws_json::ApiError;
use protocol::logs::{
    FilterLogEventsRequest, FilterLogEventsResponse, FilteredLogEvent, GetLogEventsRequest,
    GetLogEventsResponse, InputLogEvent, OutputLogEvent, PutLogEventsRequest, PutLogEventsResponse,
    RejectedLogEventsInfo,
};

use super::pattern::Pattern;
use super::store::{Event, Position};
use super::streams::missing;
use super::{Caller, bounded, invalid, no_group, no_stream};

/// Milliseconds of a day.
pub(super) const DAY: i64 = 24 * 60 * 60 * 1000;
const HOUR: i64 = DAY / 24;
/// Most events of a batch, and of a page.
const EVENTS: usize = 10_000;
/// Most bytes of a batch, and of a page.
const BYTES: u64 = 1 << 20;
/// Events that one FilterLogEvents looks at, and their bytes; then it answers with what it has and a
/// token.
const LOOKED_AT: usize = 100_000;
const LOOKED_AT_BYTES: u64 = 64 << 20;
/// Characters of a pattern.
const PATTERN: usize = 1024;
/// What an event counts for beside its message, in bytes.
pub(super) const OVERHEAD: u64 = 26;

/// What an event counts for, in bytes.
pub(super) fn size(message: &str) -> u64 {
    u64::try_from(message.len()).unwrap_or(u64::MAX).saturating_add(OVERHEAD)
}

pub(super) async fn put(
    caller: Caller<'_>,
    input: PutLogEventsRequest,
) -> Result<PutLogEventsResponse, ApiError> {
    let name = caller.group_name(input.log_group_name, None)?;
    let stream = input.log_stream_name.ok_or_else(|| invalid("logStreamName must be given"))?;
    let events = check_batch(input.log_events.unwrap_or_default())?;
    let group = caller.logs.group(caller.region(), &name).await?.ok_or_else(no_group)?;
    let (taken, rejected) = sort_out(events, group.retention_days, caller.now());
    let put = caller.logs.put(caller.region(), &name, &stream, taken, caller.now());
    put.await?.map_err(missing)?;
    Ok(PutLogEventsResponse {
        // Nobody needs it any more, but some clients still read it.
        next_sequence_token: Some(caller.now().to_string()),
        rejected_log_events_info: rejected,
        rejected_entity_info: None,
    })
}

/// The rules of a batch, all or nothing.
fn check_batch(events: Vec<InputLogEvent>) -> Result<Vec<(i64, String)>, ApiError> {
    if events.is_empty() || events.len() > EVENTS {
        return Err(invalid(format!(
            "1 validation error detected: Value at 'logEvents' failed to satisfy constraint: Member \
             must have length between 1 and {EVENTS}"
        )));
    }
    let mut checked: Vec<(i64, String)> = Vec::with_capacity(events.len());
    let mut bytes = 0;
    for event in events {
        let (Some(at), Some(message)) = (event.timestamp, event.message) else {
            return Err(invalid("every log event must have a timestamp and a message"));
        };
        if at < 0 || message.is_empty() {
            return Err(invalid(
                "a log event's timestamp must not be negative, and its message not empty",
            ));
        }
        bytes += size(&message);
        if checked.last().is_some_and(|(before, _)| *before > at) {
            return Err(invalid(
                "Log events in a single PutLogEvents request must be in chronological order.",
            ));
        }
        checked.push((at, message));
    }
    if bytes > BYTES {
        return Err(invalid(format!("Upload too large: {bytes} bytes exceeds limit of {BYTES}")));
    }
    if let (Some((first, _)), Some((last, _))) = (checked.first(), checked.last())
        && last - first > DAY
    {
        return Err(invalid(
            "The batch of log events in a single PutLogEvents request cannot span more than 24 hours.",
        ));
    }
    Ok(checked)
}

/// Leaves out events that are too old or too new, and says which.
fn sort_out(
    events: Vec<(i64, String)>,
    retention_days: Option<i32>,
    now: i64,
) -> (Vec<(i64, String)>, Option<RejectedLogEventsInfo>) {
    let index = |position: usize| i32::try_from(position).ok();
    let too_old = events.partition_point(|(at, _)| *at < now - 14 * DAY);
    let oldest = retention_days.map_or(i64::MIN, |days| now - i64::from(days) * DAY);
    let expired = events.partition_point(|(at, _)| *at < oldest);
    let too_new = events.partition_point(|(at, _)| *at <= now + 2 * HOUR);
    let rejected = RejectedLogEventsInfo {
        too_old_log_event_end_index: (too_old > 0).then(|| index(too_old)).flatten(),
        expired_log_event_end_index: (expired > too_old).then(|| index(expired)).flatten(),
        too_new_log_event_start_index: (too_new < events.len()).then(|| index(too_new)).flatten(),
    };
    let first = too_old.max(expired);
    let taken = events.into_iter().take(too_new).skip(first).collect::<Vec<_>>();
    let any = rejected != RejectedLogEventsInfo::default();
    (taken, any.then_some(rejected))
}

/// Bounds of a request's times: start inclusive, end exclusive as GetLogEvents has it.
fn window(start: Option<i64>, end: Option<i64>) -> (Position, Position) {
    // Numbers begin with 1, so 0 is before every event of its millisecond.
    let after = Position { at: start.unwrap_or(0).max(0), number: 0 };
    let before = match end {
        Some(end) => Position { at: end.max(0), number: 0 },
        None => Position { at: i64::MAX, number: u64::MAX },
    };
    (after, before)
}

fn token(direction: char, position: Position) -> String {
    format!("{direction}/{:020}/{:020}", position.at, position.number)
}

fn parse_token(token: &str) -> Result<(char, Position), ApiError> {
    let read = || {
        let mut parts = token.split('/');
        let direction = match parts.next()? {
            "f" => 'f',
            "b" => 'b',
            _ => return None,
        };
        let at = parts.next()?.parse().ok()?;
        let number = parts.next()?.parse().ok()?;
        (parts.next().is_none() && at >= 0).then_some((direction, Position { at, number }))
    };
    read().ok_or_else(|| invalid("The specified nextToken is invalid."))
}

pub(super) async fn get(
    caller: Caller<'_>,
    input: GetLogEventsRequest,
) -> Result<GetLogEventsResponse, ApiError> {
    let limit = bounded("limit", input.limit, EVENTS, EVENTS)?;
    let name = caller.group_name(input.log_group_name, input.log_group_identifier)?;
    let stream = input.log_stream_name.ok_or_else(|| invalid("logStreamName must be given"))?;
    let given = input.next_token.as_deref().map(parse_token).transpose()?;
    let group = caller.logs.group(caller.region(), &name).await?.ok_or_else(no_group)?;
    let stream = caller.logs.stream(group.id, &stream).await?.ok_or_else(no_stream)?;
    let (mut after, mut before) = window(input.start_time, input.end_time);
    let mut from_head = input.start_from_head.unwrap_or(false);
    match given {
        Some(('f', position)) => {
            after = after.max(position);
            from_head = true;
        }
        Some((_, position)) => {
            before = before.min(position);
            from_head = false;
        }
        None => {}
    }
    let events = caller.logs.events(stream.id, after, before, from_head, limit, BYTES).await?;
    let place = |event: &Event| Position { at: event.at, number: event.number };
    // Where nothing is found the position stays, so that the same token comes back. The token of the
    // other direction begins with the event that the position names.
    let (to, from) = match given {
        Some(('f', position)) => (position, position.following()),
        Some((_, position)) => (position.preceding(), position),
        None => (after, after),
    };
    let next = events.last().map_or(to, place);
    let previous = events.first().map_or(from, place);
    Ok(GetLogEventsResponse {
        next_forward_token: Some(token('f', next)),
        next_backward_token: Some(token('b', previous)),
        events: events
            .into_iter()
            .map(|event| OutputLogEvent {
                timestamp: Some(event.at),
                message: Some(event.message),
                ingestion_time: Some(event.ingested),
            })
            .collect(),
    })
}

/// What a FilterLogEvents gathers.
#[derive(Debug, Default)]
struct Found {
    events: Vec<Event>,
    bytes: u64,
    looked_at: usize,
    looked_at_bytes: u64,
    /// The last that was looked at; set when there may be more.
    last: Option<Position>,
    more: bool,
}

pub(super) async fn filter(
    caller: Caller<'_>,
    input: FilterLogEventsRequest,
) -> Result<FilterLogEventsResponse, ApiError> {
    let limit = bounded("limit", input.limit, EVENTS, EVENTS)?;
    let name = caller.group_name(input.log_group_name, input.log_group_identifier)?;
    let pattern = input.filter_pattern.as_deref().unwrap_or("");
    if pattern.chars().nth(PATTERN).is_some() {
        return Err(invalid(format!("filterPattern has at most {PATTERN} characters")));
    }
    let pattern = Pattern::parse(pattern)
        .map_err(|problem| invalid(format!("Invalid filter pattern: {problem}")))?;
    let names = input.log_stream_names.unwrap_or_default();
    let prefix = input.log_stream_name_prefix.unwrap_or_default();
    if names.len() > 100 || (!names.is_empty() && !prefix.is_empty()) {
        return Err(invalid("give at most 100 logStreamNames, or a logStreamNamePrefix"));
    }
    let given = input.next_token.as_deref().map(parse_token).transpose()?;
    let group = caller.logs.group(caller.region(), &name).await?.ok_or_else(no_group)?;
    let streams = if names.is_empty() {
        caller.logs.streams(group.id, &prefix).await?
    } else {
        let named = caller.logs.streams_named(group.id, names.into_iter().collect());
        named.await?.ok_or_else(no_stream)?
    };
    let names: BTreeMap<u64, String> =
        streams.into_iter().map(|stream| (stream.id, stream.name)).collect();
    let (mut after, mut before) = window(input.start_time, input.end_time);
    // Unlike that of GetLogEvents, the end of this one is inclusive.
    before.number = u64::MAX;
    if let Some((_, position)) = given {
        after = after.max(position);
    }
    let look = move |found: &mut Found, position: Position, event: Option<Event>| {
        let bytes = event.as_ref().map_or(0, |event| size(&event.message));
        let event = event.filter(|event| pattern.matches(&event.message));
        let full = found.events.len() == limit || found.bytes.saturating_add(bytes) > BYTES;
        if found.looked_at == LOOKED_AT
            || found.looked_at_bytes > LOOKED_AT_BYTES
            || (event.is_some() && full && !found.events.is_empty())
        {
            found.more = true;
            return false;
        }
        found.looked_at += 1;
        found.looked_at_bytes = found.looked_at_bytes.saturating_add(bytes);
        found.last = Some(position);
        if let Some(event) = event {
            found.bytes = found.bytes.saturating_add(bytes);
            found.events.push(event);
        }
        true
    };
    let ids = names.keys().copied().collect();
    let found = caller.logs.look(group.id, after, before, ids, Found::default(), look).await?;
    let events = found
        .events
        .into_iter()
        .map(|event| FilteredLogEvent {
            log_stream_name: names.get(&event.stream).cloned(),
            timestamp: Some(event.at),
            message: Some(event.message),
            ingestion_time: Some(event.ingested),
            event_id: Some(format!("{:028}{:028}", event.at, event.number)),
        })
        .collect();
    let next_token = found.last.filter(|_| found.more).map(|last| token('f', last));
    Ok(FilterLogEventsResponse { events, searched_log_streams: Vec::new(), next_token })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn event(at: i64) -> InputLogEvent {
        InputLogEvent { timestamp: Some(at), message: Some("x".to_owned()) }
    }

    #[test]
    fn batches_that_are_refused() {
        let large = InputLogEvent { timestamp: Some(1), message: Some("x".repeat(1 << 20)) };
        let empty = InputLogEvent { timestamp: Some(1), message: Some(String::new()) };
        for (what, batch) in [
            ("nothing", vec![]),
            ("too many", vec![event(1); EVENTS + 1]),
            ("out of order", vec![event(2), event(1)]),
            ("more than a day", vec![event(0), event(DAY + 1)]),
            ("too large", vec![large]),
            ("an empty message", vec![empty]),
            ("before the epoch", vec![event(-1)]),
            ("no time", vec![InputLogEvent { timestamp: None, message: Some("x".to_owned()) }]),
        ] {
            let refused = check_batch(batch);
            assert_eq!(refused.unwrap_err().name, "InvalidParameterException", "{what}");
        }
        assert_eq!(check_batch(vec![event(1); EVENTS]).unwrap().len(), EVENTS);
    }

    #[test]
    fn old_and_new_events_are_left_out() {
        let now = 100 * DAY;
        let times = [now - 15 * DAY, now - 10 * DAY, now - DAY, now, now + 3 * HOUR];
        let events: Vec<_> = times.iter().map(|at| (*at, String::new())).collect();
        let (taken, rejected) = sort_out(events.clone(), Some(7), now);
        assert_eq!(taken.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [now - DAY, now]);
        let rejected = rejected.unwrap();
        assert_eq!(rejected.too_old_log_event_end_index, Some(1));
        assert_eq!(rejected.expired_log_event_end_index, Some(2));
        assert_eq!(rejected.too_new_log_event_start_index, Some(4));
        let (taken, rejected) = sort_out(vec![(now, String::new())], None, now);
        assert_eq!((taken.len(), rejected), (1, None));
    }

    #[test]
    fn tokens() {
        let position = Position { at: 1_700_000_000_123, number: 77 };
        assert_eq!(parse_token(&token('b', position)).unwrap(), ('b', position));
        for bad in ["", "x/1/2", "f/1", "f/-1/2", "f/1/2/3", "f/a/b"] {
            assert!(parse_token(bad).is_err(), "{bad}");
        }
    }
}
