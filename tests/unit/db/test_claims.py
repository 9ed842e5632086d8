from __future__ import annotations

from beamwright.db import claims
from beamwright.db.engine import Database


def test_a_free_claim_is_taken_once(database: Database) -> None:
    with database.begin() as conn:
        assert claims.take(conn, "planner", "a", 100.0, 10.0)
        assert not claims.take(conn, "planner", "b", 105.0, 10.0)
        assert claims.holder(conn, "planner") == ("a", 110.0)


def test_the_holder_takes_again_and_renews(database: Database) -> None:
    with database.begin() as conn:
        claims.take(conn, "planner", "a", 100.0, 10.0)
        assert claims.take(conn, "planner", "a", 104.0, 10.0)
        assert claims.renew(conn, "planner", "a", 108.0, 10.0)
        assert claims.holder(conn, "planner") == ("a", 118.0)


def test_an_expired_claim_goes_to_the_next_and_cannot_be_renewed(database: Database) -> None:
    with database.begin() as conn:
        claims.take(conn, "planner", "a", 100.0, 10.0)
        assert claims.take(conn, "planner", "b", 110.0, 10.0)
        assert not claims.renew(conn, "planner", "a", 111.0, 10.0)
        assert not claims.drop(conn, "planner", "a")
        assert claims.holder(conn, "planner") == ("b", 120.0)


def test_a_dropped_claim_is_free(database: Database) -> None:
    with database.begin() as conn:
        claims.take(conn, "planner", "a", 100.0, 10.0)
        assert claims.drop(conn, "planner", "a")
        assert claims.holder(conn, "planner") is None
        assert claims.take(conn, "planner", "b", 101.0, 10.0)
