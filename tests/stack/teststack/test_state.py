"""The comparison that decides whether a restore was good: it must see every kind of difference."""

import copy
import pathlib
import tempfile
import unittest
import unittest.mock

from . import layout, seed_secrets, services, state

STATE = {
    "mongodb": {"orkestra": {"orders": {"documents": 2, "bytes": 90, "sha256": "aa", "indexes": ["one", "two"]},
                             "active": {"type": "view", "options": "{}"}}},
    "redis": {"db0/a": {"type": "string", "expires_at_millis": -1, "sha256": "bb"}},
    "rustfs": {"full": {"key": {"bytes": 1, "sha256": "cc", "headers": {"ContentType": "text/plain"}, "metadata": {}, "tags": []}},
               "empty": {}},
    "secrets": {"docker/.env": {"sha256": "dd", "mode": "0o600"}},
}

# Places that hold places: a word there is no state.
CONTAINERS = (("mongodb", "orkestra"), ("rustfs", "empty"))


def changed(*path, value):
    """Returns the state with one place changed, or taken out where the value is None."""
    other = copy.deepcopy(STATE)
    place = other
    for name in path[:-1]:
        place = place[name]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return other


class Compare(unittest.TestCase):
    def differences(self, other, **options):
        return state.compare(STATE, other, state.PARTS, **options)[1]

    def test_equal_states_have_no_difference(self):
        self.assertEqual(self.differences(copy.deepcopy(STATE)), [])

    def test_every_changed_or_missing_place_is_a_difference(self):
        places = [("mongodb", "orkestra", "orders", "sha256"), ("mongodb", "orkestra", "orders", "indexes"),
                  ("mongodb", "orkestra", "active", "options"), ("mongodb", "orkestra", "active"), ("mongodb", "orkestra"),
                  ("redis", "db0/a", "expires_at_millis"), ("redis", "db0/a"), ("rustfs", "full", "key", "headers", "ContentType"),
                  ("rustfs", "full", "key", "tags"), ("rustfs", "full", "key"), ("rustfs", "empty"), ("secrets", "docker/.env", "mode"),
                  ("secrets", "docker/.env")]
        for place in places:
            for allow_added in (False, True):
                with self.subTest(place=place, allow_added=allow_added):
                    gone = self.differences(changed(*place, value=None), allow_added=allow_added)
                    self.assertEqual(len(gone), 1)
                    if place not in CONTAINERS:
                        other = self.differences(changed(*place, value="another"), allow_added=allow_added)
                        self.assertEqual(len(other), 1)

    def test_what_came_later_is_a_difference_unless_it_is_allowed(self):
        for place in (("mongodb", "orkestra", "later"), ("rustfs", "full", "later")):
            other = changed(*place, value={"sha256": "ee"})
            self.assertEqual(len(self.differences(other)), 1)
            self.assertEqual(self.differences(other, allow_added=True), [])

    def test_a_later_redis_key_is_never_allowed(self):
        self.assertEqual(len(self.differences(changed("redis", "db0/b", value={}), allow_added=True)), 1)

    def test_a_database_may_be_compared_with_one_of_another_name(self):
        other = {"mongodb": {"staging": copy.deepcopy(STATE["mongodb"]["orkestra"])}}
        self.assertEqual(state.compare(STATE, other, ["mongodb"], map_db="orkestra=staging")[1], [])
        del other["mongodb"]["staging"]["orders"]
        self.assertEqual(len(state.compare(STATE, other, ["mongodb"], map_db="orkestra=staging")[1]), 1)


class Secrets(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        runs = unittest.mock.patch.object(layout, "RUNS", pathlib.Path(directory.name))
        runs.start()
        self.addCleanup(runs.stop)
        self.run_of_stack = layout.Run("secrets", "new", "default", "small", days=1)
        services.name_things(self.run_of_stack)

    def test_a_day_changes_content_and_mode_and_deletes_a_key(self):
        before, env = state.read_secrets(self.run_of_stack), self.run_of_stack.env_file.read_text()
        seed_secrets.change(self.run_of_stack)
        after = state.read_secrets(self.run_of_stack)
        # Every line of before is there: credentials above all.
        self.assertEqual(self.run_of_stack.env_file.read_text(), env + "DAYS_WORKED=1\n")
        self.assertEqual([line.split(":")[0] for line in state.differ("secrets", before, after)],
                         ["secrets/docker/.env/sha256", "secrets/docker/keys/apple.p8",
                          "secrets/docker/keys/jwt-private.pem/sha256", "secrets/docker/keys/jwt-public.pem/mode"])
        for allow_added in (False, True):
            self.assertEqual(len(state.compare({"secrets": before}, {"secrets": after}, ["secrets"], allow_added=allow_added)[1]), 4)
        seed_secrets.change(self.run_of_stack)

    def test_what_a_restore_kept_is_no_secret_and_any_other_file_is(self):
        before = state.read_secrets(self.run_of_stack)
        keys = self.run_of_stack.env_file.parent / "keys"
        (keys / "apple.p8.orkvault-before-20261122T160000Z").write_text("what it held")
        self.assertEqual(state.read_secrets(self.run_of_stack), before)
        (keys / "later.pem").write_text("another key")
        other = {"secrets": state.read_secrets(self.run_of_stack)}
        self.assertEqual(len(state.compare({"secrets": before}, other, ["secrets"], allow_added=True)[1]), 1)


if __name__ == "__main__":
    unittest.main()
