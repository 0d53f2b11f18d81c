"""Which Serve applications a release controller deploys and deletes."""

from ray.serve.schema import ApplicationStatus

from serve.controller import missing, surplus

RUNNING, FAILED = ApplicationStatus.RUNNING, ApplicationStatus.DEPLOY_FAILED
THERE = {
    "rlhf-service": RUNNING,
    "model-foreign": RUNNING,
    "rlhf-model-of-another-service": RUNNING,
    "rlhf-model-old": RUNNING,
    "rlhf-model-ended": FAILED,
    "rlhf-model-withdrawn": RUNNING,
}
DEPLOYED = {"rlhf-model-old", "rlhf-model-ended", "rlhf-model-withdrawn", "rlhf-model-gone-long-ago"}
WANTED = {"rlhf-model-old", "rlhf-model-ended", "rlhf-model-new"}


def test_what_is_wanted_and_not_there_or_failed_is_deployed():
    assert missing(THERE, WANTED) == {"rlhf-model-ended", "rlhf-model-new"}
    assert missing({}, WANTED) == WANTED


def test_only_what_this_service_deployed_is_deleted():
    assert surplus(THERE, DEPLOYED, WANTED) == {"rlhf-model-withdrawn"}
    assert surplus(THERE, set(), set()) == set(), "also under our own prefix"
