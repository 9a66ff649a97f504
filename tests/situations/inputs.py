"""Situations of recordings, models and prompts: what was left out, misread or taken for another."""

from tests.situations import Situation, situations

_LEFT_OUT = "two of three launches are judged, without a word"
_OTHER = "another one: *no baseline*, no recording"

ROWS: tuple[Situation, ...] = (
    *situations(
        "Recordings that were passed over",
        "tests/unit/test_recording_folder.py::",
        (
            "a launch's folder is a link to another disk",
            _LEFT_OUT,
            "counted, once however many links lead to it",
            "test_a_launch_behind_a_link_counts_once",
        ),
        (
            "links within the folder that lead up, or in a circle",
            "not followed",
            "not followed",
            "test_links_that_lead_up_or_back_are_not_followed",
        ),
        (
            "`2.json (1).gz` of a browser, `2.json.gz.part`, `2.JSON.GZ`",
            _LEFT_OUT,
            "refused at once: how the name must end",
            "test_a_copy_or_part_of_another_name",
        ),
        (
            "`2.json`, which a browser unpacked",
            _LEFT_OUT + "; if all were, “holds no recordings”",
            "refused at once: the command that packs it",
            "test_one_that_a_browser_unpacked",
        ),
        (
            "a launch's folder that the user may not read",
            _LEFT_OUT,
            "refused at once: make it readable",
            "test_a_folder_that_cannot_be_read",
        ),
        (
            "a launch's folder is a link to a disk that is not mounted",
            _LEFT_OUT,
            "refused at once: where the link leads",
            "test_a_link_to_nothing_may_have_led_to_launches",
        ),
        (
            "`artifact.zip`, `recordings.tar.gz`, as CI systems pack them",
            "each test fails: “damaged: it is not gzipped”, “Fetch it again”",
            "refused at once: unpack it, and give the folder",
            "test_an_archive_is_to_be_unpacked",
        ),
        (
            "a report, logs and other files among recordings",
            "passed over",
            "passed over",
            "test_other_files_are_passed_over",
        ),
    ),
    *situations(
        "Line ends, byte order marks and encodings",
        "tests/unit/",
        (
            "`config.json` as Git for Windows checks it out (CR LF), or with a byte order mark",
            _OTHER,
            "the same model",
            "test_cell_and_marker.py::test_line_ends_and_a_byte_order_mark_make_no_other_model",
        ),
        (
            "a file of prompts, likewise",
            _OTHER,
            "the same prompts",
            "test_workload.py::test_line_ends_and_a_byte_order_mark_make_no_other_prompts",
        ),
        (
            "prompts in UTF-16, as PowerShell's `>` writes them",
            "“line 2: it is not JSON”",
            "says so, and the command that converts them",
            "test_workload.py::test_files_that_are_none",
        ),
    ),
    *situations(
        "Stand-ins for a model's files",
        "tests/unit/",
        (
            "the model's folder is a link to one that is named after a revision",
            "the revision is the model's name: *no baseline* after the next one",
            "the link's name",
            "test_cell_and_marker.py::test_a_model_behind_a_link_has_the_links_name",
        ),
        (
            "`config.json` is a pointer of Git LFS",
            "“it is not JSON in UTF-8”, “Copy the model's config.json there”",
            "says what it is, and what fetches the file",
            "test_cell_and_marker.py::test_a_stand_in_for_a_config_is_fetched",
        ),
        (
            "`config.json` is a link to nothing, as in a copy of Hugging Face's cache",
            "“has no config.json”",
            "where the link leads, and `cp -rL`",
            "test_cell_and_marker.py::test_a_stand_in_for_a_config_is_fetched",
        ),
        (
            "prompts that are a pointer of Git LFS",
            "“line 1: it is not JSON”",
            "says what it is, and what fetches the file",
            "test_workload.py::test_files_that_are_none",
        ),
    ),
)
