"""Situations of stores, repositories and suites."""

from tests.situations import Situation

ROWS: tuple[Situation, ...] = (
    Situation(
        kind="a copy in the store",
        situation="`tiny (1).json`, `tiny - Copy.json` beside the original, of baselines or noise",
        before="the file that sorts first counted: +12.5 % was *improved* −10 %; updates changed"
        " nothing that is compared",
        now="refused by both names; nothing compared, nothing written",
        test="tests/unit/test_store_files.py"
        "::test_a_copy_beside_the_original_is_refused_by_both_names",
    ),
    Situation(
        kind="a copy in the store",
        situation="a copy of a GPU's folder",
        before="the folder that sorts first counted",
        now="refused by both names",
        test="tests/unit/test_store_files.py::test_a_copy_in_another_folder_is_refused",
    ),
    Situation(
        kind="a copy in the store",
        situation="one file holds an entry under two names",
        before="the first counted, and an update deleted the other",
        now="refused by both names",
        test="tests/unit/test_store_files.py::test_an_entry_twice_in_one_file_is_refused",
    ),
    Situation(
        kind="a copy in the store",
        situation="a merge by union doubled a launch or a cell",
        before="the launch counted twice, the cell's noise was halved",
        now="refused: the launch or cell is named",
        test="tests/unit/test_store_files.py::test_what_a_union_merge_doubles_does_not_count_twice",
    ),
    Situation(
        kind="a copy in the store",
        situation="the baseline file was renamed",
        before="an update wrote a second file beside it, which was then never compared",
        now="the update writes where the entry was found",
        test="tests/unit/test_store_files.py::test_an_update_writes_where_the_entry_was_found",
    ),
    Situation(
        kind="a copy in the store",
        situation="the noise file was renamed",
        before="its launches were ignored",
        now="found by its cells, and added to",
        test="tests/unit/test_store_files.py"
        "::test_noise_is_found_and_added_to_whatever_its_file_is_called",
    ),
    Situation(
        kind="a copy in the store",
        situation="two models whose names make one file name (`Tiny`, `tiny`)",
        before="ValueError at the update",
        now="each has its file",
        test="tests/unit/test_store_files.py"
        "::test_models_whose_names_make_one_file_name_get_two_files",
    ),
    Situation(
        kind="what Git leaves in the store",
        situation="conflict markers during a merge, rebase or cherry-pick",
        before='"damaged", and the command named fails',
        now="says so; the command named mends it",
        test="tests/unit/test_store_files.py"
        "::test_in_a_merge_the_command_that_the_message_names_mends_it",
    ),
    Situation(
        kind="what Git leaves in the store",
        situation="conflict markers that were committed",
        before='"damaged", and the command named changes nothing',
        now="says how to take an earlier commit",
        test="tests/unit/test_store_files.py"
        "::test_markers_that_were_committed_are_mended_from_an_earlier_commit",
    ),
    Situation(
        kind="what Git leaves in the store",
        situation="a pointer of Git LFS or git-annex, a file locked by git-crypt",
        before='"damaged", and the command named changes nothing',
        now="says what it is, and what fetches the file",
        test="tests/unit/test_store_files.py::test_a_stand_in_for_a_file_is_fetched_not_restored",
    ),
    Situation(
        kind="what Git leaves in the store",
        situation="a damaged file with a space in its name",
        before="a command that names two files",
        now="the path is one word",
        test="tests/unit/test_store_files.py::test_a_path_in_a_command_is_one_word",
    ),
    Situation(
        kind="what Git leaves in the store",
        situation="a recording is a pointer of Git LFS",
        before='"damaged or not a recording: it is not gzipped"',
        now="says what it is, and what fetches the file",
        test="tests/unit/test_recording.py::test_a_git_lfs_pointer_is_no_damage",
    ),
    Situation(
        kind="what editors and file managers leave",
        situation="AppleDouble, lock, swap and backup files, `.ipynb_checkpoints`, `.stversions`",
        before="every test failed: the store is damaged",
        now="skipped",
        test="tests/unit/test_store_files.py::test_what_editors_and_file_managers_leave_is_skipped",
    ),
    Situation(
        kind="what editors and file managers leave",
        situation="AppleDouble files among recordings",
        before="the replay failed: a recording is damaged",
        now="skipped",
        test="tests/unit/test_recording.py"
        "::test_what_file_managers_leave_among_recordings_is_skipped",
    ),
    Situation(
        kind="a marker that measures nothing",
        situation="`@pytest.mark.energy(…)` on a test, class or module, and no fixture",
        before="the test passed; nothing was measured",
        now="an error at collection that says what to write",
        test="tests/plugin/test_suites.py::test_a_marker_without_a_fixture_is_an_error",
    ),
    Situation(
        kind="a marker that measures nothing",
        situation="a helper's test in a module that is marked, or another plugin's `energy` marker",
        before="the test passed",
        now="the test passes",
        test="tests/plugin/test_suites.py"
        "::test_a_test_beside_the_gates_of_its_module_is_none_of_ours",
    ),
    Situation(
        kind="a marker that measures nothing",
        situation="the marker on a `unittest.TestCase`",
        before="INTERNALERROR",
        now="refused: write a function",
        test="tests/plugin/test_suites.py::test_methods_of_unittest_are_refused",
    ),
    Situation(
        kind="names that mean something else",
        situation="a project without gates has a fixture called `energy`",
        before="collection failed: no marker gives model and batch_sizes",
        now="its own fixture is used",
        test="tests/plugin/test_suites.py::test_other_projects_have_fixtures_of_these_names",
    ),
    Situation(
        kind="names that mean something else",
        situation="a conftest's `energy` fixture extends ours",
        before="gated",
        now="gated",
        test="tests/plugin/test_suites.py::test_a_fixture_that_extends_ours_gates",
    ),
    Situation(
        kind="names that mean something else",
        situation='`model="models/llama-3.1-8b"` without a `models` folder',
        before="taken for a Hugging Face id; the load failed minutes later",
        now="no such folder, at collection",
        test="tests/plugin/test_suites.py"
        "::test_a_model_folder_that_is_missing_is_not_looked_for_on_the_hub",
    ),
    Situation(
        kind="names that mean something else",
        situation="the pages' two example files in one folder",
        before="refused: both gate the same cell",
        now="both run",
        test="tests/test_docs.py::test_the_pages_test_files_share_a_folder",
    ),
    Situation(
        kind="a launch that fails",
        situation="an engine does not load, and eight tests share its launch",
        before="each test printed the thirty lines of its log",
        now="the first prints them, the others refer to it",
        test="tests/plugin/test_load_failures.py"
        "::test_a_failed_load_is_told_once_and_launched_once",
    ),
    Situation(
        kind="a launch that fails",
        situation="tests with launches of their own, all failing alike",
        before="each was launched, minutes each",
        now="after two alike the model is not launched again",
        test="tests/plugin/test_load_failures.py"
        "::test_a_third_launch_of_a_model_that_fails_alike_is_not_tried",
    ),
    Situation(
        kind="a launch that fails",
        situation="launches that fail for different reasons, or for want of memory",
        before="each was launched",
        now="each is launched",
        test="tests/plugin/test_load_failures.py::test_launches_that_may_succeed_are_tried",
    ),
    Situation(
        kind="a launch that fails",
        situation="a missing folder was taken for a Hugging Face id",
        before="vLLM's error alone",
        now="the message adds that there is no such folder",
        test="tests/plugin/test_load_failures.py"
        "::test_a_failed_load_says_that_the_model_was_no_folder",
    ),
    Situation(
        kind="a system without flock(2)",
        situation="recordings are judged on Windows",
        before="INTERNALERROR at collection",
        now="judged",
        test="tests/plugin/test_suites.py::test_recordings_are_judged_where_files_have_no_locks",
    ),
    Situation(
        kind="a system without flock(2)",
        situation="an update, noise or a live run on Windows",
        before="INTERNALERROR at collection",
        now="refused: run it on Linux",
        test="tests/plugin/test_suites.py::test_what_needs_locks_is_refused_where_files_have_none",
    ),
    Situation(
        kind="a path after an option",
        situation="recordings or an interpreter elsewhere, in a folder with or without .git and ini"
        " file",
        before="pytest's rootdir moved and the store with it; an update wrote to "
        "`../../../baselines`",
        now="the store is the tests' project's",
        test="tests/plugin/test_projects.py::test_a_path_after_an_option_moves_no_store",
    ),
    Situation(
        kind="a path after an option",
        situation="the path lies in a repository with energy settings of its own",
        before="its settings were in force: it was its store that was updated",
        now="refused: how to write the option",
        test="tests/plugin/test_projects.py::test_another_projects_settings_are_refused",
    ),
    Situation(
        kind="a path after an option",
        situation="the project's own ini file is no longer found",
        before="its energy settings were not in force, without a word",
        now="refused: how to write the option",
        test="tests/plugin/test_projects.py"
        "::test_settings_that_a_path_after_an_option_hides_are_missed",
    ),
    Situation(
        kind="a path after an option",
        situation="a model named by a path from the project's top",
        before="the other repository's model of that name",
        now="the tests' project's",
        test="tests/plugin/test_projects.py::test_models_are_those_of_the_tests_project",
    ),
    Situation(
        kind="two projects",
        situation="tests of another project are judged",
        before="by the store where pytest was called",
        now="by the store of their project",
        test="tests/plugin/test_projects.py::test_tests_of_another_project_are_judged_by_its_store",
    ),
    Situation(
        kind="two projects",
        situation="an update or noise from outside of the project",
        before="another repository's store was rewritten",
        now="refused, unless the store is named",
        test="tests/plugin/test_projects.py::test_another_projects_store_is_not_written_to",
    ),
    Situation(
        kind="two projects",
        situation="the project's own ini file names a shared store",
        before="written to",
        now="written to",
        test="tests/plugin/test_projects.py"
        "::test_a_store_that_the_projects_own_ini_file_names_may_be_anywhere",
    ),
    Situation(
        kind="two projects",
        situation="the suite is a link to a folder of another project",
        before="by the store where it is linked",
        now="by the store where it is linked",
        test="tests/plugin/test_projects.py"
        "::test_a_suite_that_is_a_link_belongs_where_it_is_linked",
    ),
    Situation(
        kind="recordings of the baseline itself",
        situation="all or some of the launches that are replayed are the baseline's own",
        before="pass, +0.0 %, without a word",
        now="the summary and the report say that it was compared with itself",
        test="tests/plugin/test_plugin.py"
        "::test_launches_that_the_baseline_holds_are_said_to_be_compared_with_themselves",
    ),
    Situation(
        kind="two projects",
        situation="one call asks for tests of two projects in a repository",
        before="no baseline, though each has one; an update made a third store",
        now="refused with both names",
        test="tests/plugin/test_projects.py::test_tests_of_two_projects_have_no_store_in_common",
    ),
    Situation(
        kind="two projects",
        situation="an update from one project with tests of the repository's other folder",
        before="a store at the top of the repository",
        now="refused",
        test="tests/plugin/test_projects.py"
        "::test_an_update_stays_in_the_project_of_a_repository_of_several",
    ),
    Situation(
        kind="files of the store",
        situation="a baseline file is a link to a shared one",
        before="an update replaced the link by a file",
        now="the shared file is updated",
        test="tests/plugin/test_projects.py"
        "::test_a_baseline_that_is_a_link_is_updated_where_it_leads",
    ),
    Situation(
        kind="several files for one thing",
        situation="two recordings of one launch and cell that differ",
        before="the one whose name sorts first counted",
        now="refused with both names; an equal copy counts once",
        test="tests/plugin/test_bad_input.py"
        "::test_one_launch_in_two_files_counts_once_if_they_agree_and_is_refused_if_not",
    ),
    Situation(
        kind="files of the store",
        situation="the folder of a GPU model is renamed",
        before="its baselines were found, its noise was not, without a word",
        now="both are found",
        test="tests/unit/test_store_files.py"
        "::test_baseline_and_noise_are_found_whatever_the_gpus_folder_is_called",
    ),
    Situation(
        kind="files of the store",
        situation="the folder of a GPU model holds noise of another",
        before="another GPU model's noise decided",
        now="no noise; what is measured gets a file of its own",
        test="tests/unit/test_store_files.py"
        "::test_the_folder_of_a_gpu_may_hold_the_files_of_another",
    ),
    Situation(
        kind="several files for one thing",
        situation="a copy of a GPU model's noise in another folder",
        before="the one in the folder of that name decided",
        now="refused with both names",
        test="tests/unit/test_store_files.py::test_noise_of_one_gpu_in_two_folders_is_refused",
    ),
    Situation(
        kind="several files for one thing",
        situation="a link within the store to a folder or file of it",
        before="“Delete the copy”, which could have been the original",
        now="one file, however many links lead to it",
        test="tests/unit/test_store_files.py::test_a_link_within_the_store_is_no_copy",
    ),
    Situation(
        kind="files of the store",
        situation="a file is a link to nothing (a submodule, mount or annex that was not fetched)",
        before="cannot be read: No such file or directory",
        now="says where the link leads, and what to type",
        test="tests/unit/test_store_files.py::test_a_link_to_nothing_hides_no_file",
    ),
    Situation(
        kind="files of the store",
        situation="the folder of a GPU model, its `noise` or the store is a link to nothing",
        before="no baseline; no noise, without a word",
        now="refused: where the link leads, and what to type",
        test="tests/unit/test_store_files.py::test_a_store_that_is_a_link_to_nothing_is_not_empty",
    ),
    Situation(
        kind="files of the store",
        situation="a folder of the store that the user may not read",
        before="no baseline; no noise, without a word",
        now="refused: make it readable",
        test="tests/unit/test_store_files.py"
        "::test_a_folder_that_cannot_be_looked_into_is_not_empty",
    ),
    Situation(
        kind="recordings of the baseline itself",
        situation="`--energy-update` with the very launches that the baseline holds",
        before="*changed*, and one more entry in its history",
        now="*unchanged*; the file is not touched",
        test="tests/plugin/test_plugin.py"
        "::test_an_update_with_the_launches_of_the_baseline_changes_nothing",
    ),
    Situation(
        kind="files that stop every test",
        situation="a damaged baseline or noise file, recording, or link to nothing",
        before="in full in each test; recordings read anew for each",
        now="in full in the first, a reference in the others; read once",
        test="tests/plugin/test_bad_input.py::test_a_file_that_stops_every_test_is_told_in_full_once",
    ),
    Situation(
        kind="files of the store",
        situation="a file is moved a folder up or down, to `Noise/` or to `tiny.JSON`",
        before="no baseline; no noise, without a word",
        now="refused: where it belongs",
        test="tests/unit/test_store_files.py"
        "::test_a_file_where_none_is_looked_for_is_not_passed_over",
    ),
    Situation(
        kind="files of the store",
        situation="another tool's JSON in a folder of its own below the store",
        before="passed over",
        now="passed over",
        test="tests/unit/test_store_files.py::test_other_peoples_files_in_a_store_are_theirs",
    ),
    Situation(
        kind="several files for one thing",
        situation="a second name of a file (hard link), as of tools that save space",
        before="refused: it stands twice",
        now="one file; an update, which would part the two, is refused: delete one name",
        test="tests/unit/test_store_files.py"
        "::test_a_hard_link_is_no_copy_until_the_file_is_replaced",
    ),
    Situation(
        kind="files of the store",
        situation="a noise file in the folder of a GPU model, or a baseline in its `noise`",
        before="“damaged: cells is a list”, and a command that restores it as it is",
        now="refused: where it belongs",
        test="tests/unit/test_store_files.py"
        "::test_a_file_where_none_is_looked_for_is_not_passed_over",
    ),
    Situation(
        kind="files of the store",
        situation="a store on a slow file system, such as NFS",
        before="looked through at each lookup: 21 times in a replay of four cells",
        now="once, and once more for each update",
        test="tests/unit/test_store_files.py"
        "::test_a_store_is_looked_through_once_however_many_cells_are_looked_up",
    ),
)
