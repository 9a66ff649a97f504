import os


class _Platform:
    device_name = "fake"
    device_type = "fake"

    def is_cuda(self):
        return "FAKE_GPUS" in os.environ

    def get_device_uuid(self, index):
        return os.environ["FAKE_GPUS"].split(",")[index]


current_platform = _Platform()
