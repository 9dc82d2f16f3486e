-- The questions that operators ask, by name: `bftv2 sql NAME`. The list in docs/sql.md is made of this file.
--
-- A query begins with '--@ name: what it answers'. '--: name meaning' is a parameter (`--set name=value`); one that is
-- not set is NULL, and the SQL says what that means. They ask the views alone: the tables may change.

--@ overview: What is going on: every task that is not over, with its rate and what is left.
select task, role, state, percent, round(rate / 1048576.0, 1) as mib_per_s, eta_minutes,
       case when at_risk <> '' then 'at risk: ' || at_risk else reason end as reason
from v_tasks where state <> 'history' order by created_at

--@ stuck: What is stuck, why, and what happens or has to be done next.
select task, role, '' as method, state || ': ' || reason as why,
       'mend it, then ' || case role when 'sender' then 'send' else 'recv' end || ' again' as next
from v_tasks where state in ('failed', 'downloaderror')
union all
select task, role, '', 'waits in the queue since ' || created_at, 'starts when another one is done (uploadingnum, downloadingnum)'
from v_tasks t
where state = 'queues' and not exists (select 1 from v_schedules s where s.task = t.task and s.role = t.role and s.open_now = 0)
union all
select l.task, l.role, l.method,
       case when l.state = 'failed' then 'failed: ' || l.error
            when l.retry_at is not null then 'try ' || l.tries || ' failed: ' || l.error
            when s.open_now = 0 then 'outside its window ' || s.window
            when l.state = 'waiting' then 'waits to be started'
            when l.method = 'bt' and l.peers = 0 then 'no peers'
            else 'no bytes move' end,
       case when l.state = 'failed' then 'another method takes over, or the task ends'
            when l.retry_at is not null then 'next try at ' || l.retry_at
            when s.open_now = 0 then 'opens at ' || s.opens_at
            when l.method = 'bt' and l.peers = 0 then 'look at tracker, btpeers, the firewall before btlisten'
            else 'look at the log' end
from v_legs l join v_tasks t using (task, role) left join v_schedules s using (task, role, method)
where t.state <> 'history' and l.state in ('waiting', 'failed', 'running')
  and (l.retry_at is not null
       or (l.bytes_done < l.bytes_total and s.open_now = 0 and l.state = 'waiting')
       or (l.bytes_done < l.bytes_total and t.state in ('uploading', 'downloading')
           and (l.state <> 'running' or (l.rate = 0 and l.ready = 0))))
order by 1, 2, 3

--@ legs: Each method of the tasks at work: how fast, how many peers, when something changes.
--: task the task file's name, with % for any text; all when it is not set
select task, role, method, state, rate, peers, tries, window, next_change_at, error
from v_legs where state in ('waiting', 'running') and task like coalesce(:task, '%') order by task, role, method

--@ failed: What failed, and why.
select task, role, state, reason, created_at from v_tasks
where state in ('failed', 'downloaderror') order by created_at desc

--@ errors: Which errors are frequent among methods.
select method, error, count(*) as legs, sum(tries) as tries, min(task) as for_example
from v_legs where error <> '' group by method, error order by legs desc, tries desc

--@ missing-files: Which files are not there yet, and who should bring them.
--: task the task file's name, with % for any text; all when it is not set
select task, path, method, bytes_done, size, round(100.0 * bytes_done / max(size, 1), 1) as percent
from v_files where role = 'receiver' and state <> 'verified' and task like coalesce(:task, '%') order by task, path

--@ still-to-come: How much is still to come, by task: what the disk must have room for.
select task, state, bytes_total - bytes_done as bytes_to_come, round((bytes_total - bytes_done) / 1e9, 1) as gb
from v_tasks where role = 'receiver' and state in ('queues', 'downloading')
union all
select '(all)', '', coalesce(sum(bytes_total - bytes_done), 0), round(coalesce(sum(bytes_total - bytes_done), 0) / 1e9, 1)
from v_tasks where role = 'receiver' and state in ('queues', 'downloading')
order by bytes_to_come

--@ at-risk: What will not be done before its offer ends, and why.
select task, role, state, percent, expected_at, at_risk from v_tasks where at_risk <> '' order by created_at

--@ windows: Which windows are open, what changes next, and when each method runs.
select task, role, method, window, open_now, coalesce(opens_at, closes_at) as changes_at, waits_for, runs_at
from v_schedules where waits_for <> 'done' order by changes_at, task, method

--@ tonight: What each window, the open one or the next, will allow: its length times the rate of the method so far, each
-- task and method as if it had the link to itself. Windows that adjoin are counted one by one.
with w as (
  select task, role, method, window, coalesce(opens_at, datetime('now', 'localtime')) as since,
         case when open_now = 1 then coalesce(closes_at, datetime('now', 'localtime', '+1 day'))
              else datetime(opens_at, '+' || (
                select max((case when substr(p.value, 7, 5) in ('00:00', '23:59') then 1440
                                 else substr(p.value, 7, 2) * 60 + substr(p.value, 10, 2) end
                            - substr(p.value, 1, 2) * 60 - substr(p.value, 4, 2) + 1439) % 1440 + 1)
                from json_each('["' || replace(window, ',', '","') || '"]') p
                where substr(p.value, 1, 5) = substr(opens_at, 12, 5)) || ' minutes') end as until
  from v_schedules where window <> ''),
r as (
  select w.*, round((julianday(w.until) - julianday(w.since)) * 86400) as seconds, l.bytes_total - l.bytes_done as bytes_left,
         coalesce(l.bytes_wire / nullif(l.active_seconds, 0),
                  (select sum(a.bytes_wire) / sum(a.active_seconds) from v_legs a
                   where a.role = l.role and a.method = l.method and a.bytes_wire > 0 and a.active_seconds > 0)) as rate
  from w join v_legs l using (task, role, method) join v_tasks t using (task, role)
  where t.state in ('queues', 'uploading', 'downloading') and l.state in ('waiting', 'running') and l.bytes_done < l.bytes_total)
select task, method, window, since, until, round(seconds / 3600, 1) as hours, bytes_left, cast(rate as integer) as rate,
       cast(min(bytes_left, rate * seconds) as integer) as bytes_allowed,
       case when rate is null then 'no rate is known yet' when rate * seconds >= bytes_left then 'will be done'
            else 'goes on in a later window' end as verdict
from r order by since, task, method

--@ rate-by-hour: The rate of each method by hour, all tasks together, while anything ran.
--: days how many days back; 7 when it is not set
--: role sender (what is sent) or receiver (what is fetched); both when it is not set
with minutes as (
  select minute, method, sum(rate) as rate from (
    select substr(at, 1, 16) as minute, task, role, method, avg(rate) as rate
    from v_progress
    where at > datetime('now', 'localtime', '-' || coalesce(:days, 7) || ' days') and role like coalesce(:role, '%')
    group by minute, task, role, method)
  group by minute, method)
select substr(minute, 1, 13) || ':00' as hour, method, cast(avg(rate) as integer) as rate, cast(max(rate) as integer) as best_rate
from minutes group by hour, method order by hour, method

--@ rate-by-time-of-day: Which hours of the day are fast: for choosing windows.
--: days how many days back; 30 when it is not set
select substr(at, 12, 2) || ':00' as hour, method, cast(avg(rate) as integer) as rate, count(distinct substr(at, 1, 10)) as days
from v_progress
where role = 'receiver' and rate > 0 and at > datetime('now', 'localtime', '-' || coalesce(:days, 30) || ' days')
group by hour, method order by hour, method

--@ rate-of-task: The course of a task, a line for each minute and method.
--: task the task file's name, with % for any text; all when it is not set
select task, substr(at, 1, 16) as minute, method, max(bytes_done) as bytes_done, cast(avg(rate) as integer) as rate, max(peers) as peers
from v_progress where task like coalesce(:task, '%') group by task, role, minute, method order by task, minute, method

--@ bytes-by-method: How many bytes came by which method, and how many more crossed the network than were needed.
select method, sum(bytes_done) as bytes_done, sum(bytes_wire) as bytes_wire,
       sum(max(bytes_wire - bytes_done, 0)) as bytes_repeated, round(sum(active_seconds) / 3600, 1) as hours,
       cast(sum(bytes_wire) / nullif(sum(active_seconds), 0) as integer) as rate
from v_legs where role = 'receiver' group by method order by method

--@ saved: What deduplication saved: bytes that were copied from the library and not fetched.
select count(*) as tasks, sum(bytes_local) as bytes_saved,
       round(100.0 * sum(bytes_local) / max(sum(bytes_total), 1), 1) as percent
from v_tasks where role = 'receiver' and state in ('downloaded', 'history') and reason = ''

--@ deliveries: How long deliveries took, and at what rate, the newest first.
--: rows how many; 50 when it is not set
select task, started_at, finished_at, round((julianday(finished_at) - julianday(started_at)) * 24, 2) as hours,
       cast((bytes_total - bytes_local) / max(round((julianday(finished_at) - julianday(started_at)) * 86400), 1) as integer) as rate
from v_tasks where role = 'receiver' and state in ('downloaded', 'history') and reason = '' and finished_at is not null
order by finished_at desc limit cast(coalesce(:rows, 50) as integer)

--@ deliveries-per-day: Deliveries per day: how many, how many bytes, how long.
--: days how many days back; 30 when it is not set
select substr(finished_at, 1, 10) as day, role, count(*) as deliveries, sum(bytes_total) as bytes,
       round(avg(julianday(finished_at) - julianday(started_at)) * 24, 2) as hours_on_average
from v_tasks
where state in ('downloaded', 'uploaded', 'history') and reason = ''
  and finished_at > datetime('now', 'localtime', '-' || coalesce(:days, 30) || ' days')
group by day, role order by day, role

--@ slowest-deliveries: The receptions that took longest for their bytes, and how long each method was at work. The time
-- outside windows counts as well.
--: rows how many; 20 when it is not set
select t.task, cast((t.bytes_total - t.bytes_local) / max(round((julianday(t.finished_at) - julianday(t.started_at)) * 86400), 1) as integer) as rate,
       round((julianday(t.finished_at) - julianday(t.started_at)) * 24, 2) as hours, t.bytes_total - t.bytes_local as bytes_fetched,
       (select group_concat(l.method || ' ' || round(l.active_seconds / 3600, 2) || ' h', ', ')
        from v_legs l where l.task = t.task and l.role = t.role and l.state <> 'off') as at_work
from v_tasks t
where t.role = 'receiver' and t.state in ('downloaded', 'history') and t.reason = '' and t.finished_at is not null
  and t.bytes_total > t.bytes_local
order by rate limit cast(coalesce(:rows, 20) as integer)

--@ slowest-legs: Which method of which task was slowest while it was at work.
--: rows how many; 20 when it is not set
select task, role, method, cast(bytes_wire / active_seconds as integer) as rate, bytes_wire, round(active_seconds / 3600, 2) as hours, tries, error
from v_legs where active_seconds > 0 and bytes_wire > 0 and role = 'receiver'
order by bytes_wire / active_seconds limit cast(coalesce(:rows, 20) as integer)

--@ slowest-packages: Of a sender: which packages took longest until cinemas could fetch them. How fast each cinema
-- fetched is known at the cinema alone: ask `slowest-deliveries` there.
--: rows how many; 20 when it is not set
select package, task, round((julianday(finished_at) - julianday(started_at)) * 24, 2) as hours, bytes_total,
       cast(bytes_total / max(round((julianday(finished_at) - julianday(started_at)) * 86400), 1) as integer) as rate
from v_tasks where role = 'sender' and started_at is not null and finished_at is not null and reason = ''
order by hours desc limit cast(coalesce(:rows, 20) as integer)

--@ seeds: What is seeded, until when, and how much has been sent.
select l.task, l.role, t.seed_until, l.ready, l.peers, l.rate, l.bytes_sent, round(1.0 * l.bytes_sent / max(l.bytes_total, 1), 2) as copies
from v_legs l join v_tasks t using (task, role)
where l.method = 'bt' and l.state = 'running' and l.ready = 1 order by t.seed_until

--@ unsent: Packages that were made ready by gentask and never sent.
select g.dcppath, g.taskfile, g.finished_at from v_generations g
where g.state = 'finished' and not exists (
  select 1 from v_tasks t where t.role = 'sender' and substr(g.taskfile, -length(t.task) - 1) = '/' || t.task)
order by g.finished_at

--@ gentask: gentask jobs, the newest first, with their speed.
--: rows how many; 20 when it is not set
select dcppath, state, send, round(100.0 * bytes_done / max(bytes_total, 1), 1) as percent,
       cast(bytes_done / max(round((julianday(finished_at) - julianday(created_at)) * 86400), 1) as integer) as rate,
       error, created_at, finished_at
from v_generations order by created_at desc limit cast(coalesce(:rows, 20) as integer)

--@ incomplete-packages: Packages that are not complete, and what is wrong with them.
select package, path, verdict, checked_at from v_packages where verdict <> 'complete' order by package

--@ largest-packages: The largest packages, and the whole library.
--: rows how many; 20 when it is not set
select package, files, bytes, round(bytes / 1e9, 1) as gb, title from v_packages
union all select '(all)', sum(files), sum(bytes), round(sum(bytes) / 1e9, 1), '' from v_packages
order by bytes desc limit cast(coalesce(:rows, 20) as integer) + 1

--@ duplicates: Duplicate files that are worth space, the largest waste first.
--: bytes the least that is worth a line; 1000000 when it is not set
select d.sha1, d.copies, d.bytes_wasted, min(l.path) as for_example
from v_duplicates d join v_library l using (sha1)
where l.state = 'ok' and d.bytes_wasted >= cast(coalesce(:bytes, 1000000) as integer)
group by d.sha1, d.copies, d.bytes_wasted order by d.bytes_wasted desc

--@ duplicate-paths: Where the copies of duplicate files are.
select d.sha1, d.bytes_wasted, l.path from v_duplicates d join v_library l using (sha1)
where l.state = 'ok' order by d.bytes_wasted desc, l.path

--@ find-file: Is this file in the library? By SHA-1, or by a part of its path.
--: sha1 40 hexadecimal digits
--: path a part of the path
select path, size, sha1, state, hashed_at from v_library
where sha1 = lower(:sha1) or instr(path, :path) > 0 order by path

--@ digests: The digests of a package, a line each as `sha1sum -c` reads them.
--: package the package's directory, with % for any text; all when it is not set
select sha1 || '  ' || path as line from v_library where state = 'ok' and package like coalesce(:package, '%') order by path

--@ hashed-per-day: How much of the library was hashed on which day.
select substr(hashed_at, 1, 10) as day, count(*) as files, sum(size) as bytes from v_library
where state = 'ok' group by day order by day

--@ history-of-task: What happened to a task.
--: task the task file's name, with % for any text; all when it is not set
select at, level, kind, task, actor, text from v_events where task like coalesce(:task, '%') order by at

--@ warnings: Warnings and errors of the last days, the newest first.
--: days how many days back; 1 when it is not set
select at, level, kind, task, text from v_events
where level <> 'info' and at > datetime('now', 'localtime', '-' || coalesce(:days, 1) || ' days') order by at desc

--@ cancelled: What was cancelled, when.
select at, task, text from v_events where kind = 'cancel' order by at desc

--@ starts: When the service was started, and with which version.
select at, text from v_events where kind = 'start' order by at desc

--@ database-size: How large the database is, and how much of it is free for new rows.
select page_count * page_size as bytes, freelist_count * page_size as bytes_free,
       (select count(*) from v_tasks) as tasks, (select count(*) from v_events) as events,
       (select count(*) from v_progress) as samples, (select count(*) from v_library) as library_files
from pragma_page_count(), pragma_page_size(), pragma_freelist_count()
