"""The promises of the limiter, and the tests that prove them.

1. Whatever the jitter within the guard, no period of arrivals at the provider holds more than the count.
     test_arrivals::test_no_period_of_arrivals_exceeds_the_count_at_any_learned_level
     test_arrivals::test_a_bucket_is_never_refused_however_late_each_call_is_within_its_lag
     test_simulation::test_ours_is_never_refused_and_does_all
2. The books never hold more than the limit in any span, in whatever order calls come.
     test_properties::test_no_order_of_calls_gets_more_than_the_quota
     test_fleet::test_fifty_clients_racing_in_real_time_never_exceed_the_window
3. All limits are charged or none: a call that is refused changes no key.
     test_limiter::test_a_denied_call_changes_no_key
     test_limiter::test_a_cost_that_can_never_fit_is_refused_at_once
     test_days::test_a_full_day_parks_the_call_and_charges_nothing
4. A repeated request, release or give-back counts once, even if the first reply was lost.
     test_limiter::test_a_repeated_request_has_one_grant_and_is_charged_once
     test_limiter::test_a_given_back_window_and_lease_are_as_if_never_taken
     test_clock::test_a_request_whose_reply_was_lost_is_charged_once
5. A saturated limit is used to its formula: 99 % for periods from 10 s on.
     test_shared::test_a_saturated_window_is_used_to_its_formula
     test_limiter::test_a_bucket_starts_full_and_then_keeps_its_rate_exactly
     test_learning::test_a_guard_that_is_measured_anew_uses_up_nothing_of_a_large_window
6. No slot is later than it must be.
     test_properties::test_a_slot_is_the_earliest_that_leaves_every_earlier_grant_its_place
     test_limiter::test_two_hundred_jobs_take_the_optimum_and_three_guards
     test_simulation::test_under_windows_the_makespan_is_the_optimum_and_the_guards
7. No call starves: a granted slot is at most the backlog and a period away, whatever the size of the call; a caller
   that looks ahead less than the backlog has a reservation from its second denial on.
     test_starvation::test_a_reserving_caller_waits_for_the_backlog_and_one_period
     test_starvation::test_a_call_of_all_units_is_granted_among_small_ones_if_it_reserves
     test_starvation::test_a_call_of_all_units_is_granted_with_a_shorter_horizon
     test_starvation::test_a_slow_and_a_fast_route_share_the_account_at_any_horizon
     test_shared::test_a_slow_route_neither_starves_nor_holds_up_a_fast_one
     test_line::test_a_heavy_call_is_granted_among_light_ones
     test_line::test_every_holder_is_served_and_the_places_suffice
8. Through kills, stops longer than a lease and double releases, no more runs at the provider than its places.
     test_crashes::test_kills_and_stops_never_overfill_the_provider_and_free_every_place
     test_leases::test_a_submitted_job_counts_after_its_worker_died_until_it_must_have_ended
9. All places are back once the longest call of a dead worker must have ended; its next owner can end it sooner.
     test_crashes::test_kills_and_stops_never_overfill_the_provider_and_free_every_place
     test_leases::test_the_next_owner_of_a_submitted_job_adopts_its_lease_and_ends_it
10. One refusal silences all holders for as long as the provider named, and cuts once for all calls of its epoch.
     test_silence::test_one_refusal_silences_every_holder_until_it_is_over_and_cuts_once
     test_refusals::test_refusals_of_calls_that_were_granted_before_a_cut_cut_no_more
     test_arrivals::test_after_a_pause_one_period_grants_the_count_and_no_two_at_once
11. A clock that steps stalls nothing for more than a second, and no slot is granted twice.
     test_clock::test_a_clock_that_steps_back_stalls_for_no_more_than_a_second
     test_clock::test_a_clock_that_steps_back_grants_no_slot_twice
     test_days::test_the_servers_clock_and_not_the_process_clock_names_the_day
12. Forgotten scripts, restarts and failovers show as connection errors at most, and cost what was granted in the lag.
     test_restarts::test_every_call_outlives_the_loss_of_its_script
     test_restarts::test_a_restart_with_persistence_forgets_nothing
     test_restarts::test_a_restart_without_persistence_grants_nothing_twice
     test_restarts::test_a_failover_to_a_lagging_replica_costs_what_was_granted_within_the_lag
     test_restarts::test_a_cold_start_waits_for_nothing_and_has_the_units_of_a_period
     test_fleet::test_without_redis_nothing_is_granted
13. A caller that is cancelled anywhere leaves neither a slot nor a lease, and receives its cancellation.
     test_cancellation::test_a_cancelled_request_is_charged_nothing_in_any_book
     test_cancellation::test_a_step_that_has_begun_ends_although_its_caller_is_cancelled
     test_cancellation::test_a_caller_that_is_cancelled_twice_is_charged_nothing_either
     test_cancellation::test_a_caller_is_cancelled_even_if_its_grant_cannot_be_given_back
14. Idle keys die, and no answer depends on a key that may have died.
     test_expiry::test_no_answer_depends_on_a_key_that_may_have_died
     test_expiry::test_every_kind_of_key_dies_soon_after_it_has_lost_its_meaning
     test_expiry::test_one_call_an_hour_is_held_to_it_over_any_silence_shorter_than_that
     test_expiry::test_a_call_that_was_sent_late_counts_to_its_end
     test_expiry::test_an_idle_installation_leaves_nothing_behind
15. A day is its zone's, also where clocks change; what is given back after midnight goes to its own day.
     test_days::test_a_day_lasts_from_midnight_to_midnight_even_if_clocks_change
     test_days::test_a_unit_given_back_after_midnight_goes_to_its_own_day
     test_days::test_nothing_is_sent_so_near_to_midnight_that_its_day_is_unknown
16. Limits may change while calls are out: no later grant exceeds the limit of then; a new kind waits for a period.
     test_changes::test_no_grant_exceeds_the_present_limit_after_any_changes
     test_changes::test_a_changed_limit_knows_earlier_use
     test_changes::test_a_limit_of_a_new_kind_waits_for_one_period_and_then_grants_in_full
     test_changes::test_a_kind_that_granted_nothing_keeps_the_wait_of_the_one_before
     test_changes::test_fewer_places_wait_for_calls_to_end_and_more_are_free_at_once
     test_changes::test_learning_that_is_switched_off_and_on_again_goes_on_where_it_was
17. No rate drifts, however odd, slow, fast or old.
     test_numbers::test_the_thousandth_token_of_a_bucket_comes_to_the_microsecond
     test_numbers::test_a_bucket_counts_in_whole_numbers_up_to_the_largest_burst
     test_numbers::test_windows_keep_their_span_to_the_microsecond_however_long
     test_shared::test_the_slowest_and_the_fastest_rates_are_exact
18. A script touches only the keys that it was given, and those of one call are in one slot of a cluster.
     test_keys::test_every_call_of_every_script_touches_declared_keys_of_one_slot
     test_keys::test_no_script_makes_a_key_of_its_own
     test_fleet::test_all_keys_of_a_call_are_in_one_slot_of_a_cluster
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PROMISES = 18


def test_every_promise_names_tests_that_exist() -> None:
    promises = re.split(r"^\d+\. ", __doc__ or "", flags=re.MULTILINE)[1:]
    assert len(promises) == PROMISES
    for promise in promises:
        named = re.findall(r"^     (test_\w+)::(test_\w+)$", promise, re.MULTILINE)
        assert named, promise
        for file, test in named:
            (path,) = HERE.rglob(f"{file}.py")
            assert f"def {test}(" in path.read_text(), f"{file}::{test}"
