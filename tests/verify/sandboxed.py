"""A program for the sandbox: does what hostile mathematics does to its process."""

import os
import time


def prepare():
    pass


def answer(question):
    match question["do"]:
        case "add":
            return question["a"] + question["b"]
        case "hang":
            while True:
                pass
        case "sleep":
            time.sleep(600)
        case "eat":
            return len(bytearray(question["num_bytes"]))
        case "die":
            os.abort()
        case "raise":
            raise ValueError
        case "pid":
            return os.getppid()
