class _Platform:
    device_name = "fake"
    device_type = "fake"

    def is_cuda(self):
        return False


current_platform = _Platform()
