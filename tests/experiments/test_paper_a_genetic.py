from shoal_agent.experiments.paper_a.genetic import NOWHERE, Genetic, Search
from shoal_agent.experiments.paper_a.paper_rule import Group, PaperRule
from tests.support.paper_a import setting, world


def search():
    one = world()
    while not one.waiting:
        one._open()
        one.slot += 1
    one.slot -= 1
    waiting = {}
    for stage in one.waiting:
        waiting.setdefault(stage.service.number, []).append(stage)
    rule = PaperRule(one.scenario, eta=3.0, epsilon=0.2)
    return one, Search(one, rule, Group(None), waiting, 3.0)


def test_selection_finds_something_better_than_nothing():
    one, asked = search()
    genetic = Genetic(setting().scenario, eta=3.0, epsilon=0.2, seed=1)
    found = genetic._evolve(one, asked, list(asked.waiting))
    none = {number: (NOWHERE,) * len(genes) for number, genes in found.items()}
    assert asked.worth(found) < asked.worth(none)


def test_what_does_not_fit_is_not_started():
    one, asked = search()
    number = next(iter(asked.waiting))
    one.used[0] = list(one.scenario.rooms[0])
    assert asked.possible({number: (0, 0)}) == {number: (NOWHERE, NOWHERE)}


def test_a_few_slots_start_instances():
    one = world()
    genetic = Genetic(setting().scenario, eta=3.0, epsilon=0.2, seed=1)
    for _ in range(4):
        one._open()
        genetic.decide(one)
        one._close()
    assert one.boots > 0
