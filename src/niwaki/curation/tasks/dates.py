"""Days of the week, clocks and calendars. Difficulty: longer spans."""

from __future__ import annotations

import datetime
import random

from niwaki.curation.tasks.task import Draft, near, number, words

_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip


def weekday_after(rng: random.Random, difficulty: int) -> Draft:
    """Up to 20 days at difficulty 1, 10 ** `difficulty` beyond."""
    today = rng.randrange(7)
    days = rng.randint(1, 20 if difficulty == 1 else 10**difficulty)
    back = rng.random() < 0.5
    gold = _DAYS[(today - days if back else today + days) % 7]
    asked = "was it %d days ago" if back else "will it be in %d days"
    wrong = rng.sample(_DAYS, 7)
    return words(
        f"Today is {_DAYS[today]}. Which day {asked % days}?", gold, wrong, _count(today, days, back)
    )


def clock(rng: random.Random, difficulty: int) -> Draft:
    """Minutes after a time of the day: up to 60 at difficulty 1, two hours more with each level."""
    start = rng.randrange(24 * 60 // 5) * 5 if difficulty == 1 else rng.randrange(24 * 60)
    minutes = rng.randint(1, 12) * 5 if difficulty == 1 else rng.randint(10, 120 * difficulty)
    gold = start + minutes
    wrong = [_time(gold + slip) for slip in (60, -60, 10, -10, 40, -40)]
    return words(
        f"It is {_time(start)}. What time will it be in {minutes} minutes? Answer like 09:30.",
        _time(gold),
        rng.sample(wrong, len(wrong)),
    )


def days_between(rng: random.Random, difficulty: int) -> Draft:
    """Two dates within 30 days at difficulty 1, within 60 * `difficulty` beyond."""
    first = datetime.date(2001, 1, 1) + datetime.timedelta(days=rng.randrange(9000))
    days = rng.randint(1, 30 if difficulty == 1 else 60 * difficulty)
    second = first + datetime.timedelta(days=days)
    return number(
        f"How many days are there from {_date(first)} to {_date(second)}?", days, near(rng, days, days + 1)
    )


def month_after(rng: random.Random, difficulty: int) -> Draft:
    """Months after a month; the count grows with difficulty."""
    now, months = rng.randrange(12), rng.randint(1, 20 * difficulty)
    gold = _MONTHS[(now + months) % 12]
    near_gold = [_MONTHS[(now + months + step) % 12] for step in (1, -1, 2, -2, 3)]
    return words(f"Which month comes {months} months after {_MONTHS[now]}?", gold, near_gold)


def _count(today: int, days: int, back: bool) -> str:
    """What is left of the days without whole weeks, then day by day."""
    left = days % 7
    steps = [f"{days} - {days - left} = {left}"] if days > left else []
    steps += [f"{n} {_DAYS[(today - n if back else today + n) % 7]}" for n in range(1, left + 1)]
    return ", ".join(steps)


def _time(minutes: int) -> str:
    hour, minute = divmod(minutes % (24 * 60), 60)
    return f"{hour:02d}:{minute:02d}"


def _date(date: datetime.date) -> str:
    return f"{date.day} {_MONTHS[date.month - 1]} {date.year}"
