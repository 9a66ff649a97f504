class RequestOutputKind:
    DELTA = 1
    FINAL_ONLY = 2
